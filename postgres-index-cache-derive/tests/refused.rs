//! Structs that cannot be models. Each file in `refused` must not compile, with the error beside it.

#[test]
fn a_mistake_is_an_error_at_its_place() {
    trybuild::TestCases::new().compile_fail("tests/refused/*.rs");
}
