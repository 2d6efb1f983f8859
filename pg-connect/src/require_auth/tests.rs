//! The value of `require_auth`.

use super::*;

#[test]
fn words_are_all_allowed_or_all_refused() {
    let only = RequireAuth::parse("scram-sha-256,none").unwrap();
    assert!(only.allows(Method::ScramSha256) && only.allows(Method::None));
    assert!(!only.allows(Method::Password));
    let not = RequireAuth::parse(" !password , ! md5").unwrap();
    assert!(not.allows(Method::ScramSha256) && !not.allows(Method::Md5));
    assert_eq!(RequireAuth::parse(""), Ok(RequireAuth::Any));
    for text in [
        "magic",
        "password,!md5",
        "none,none",
        "!none,!none",
        ",",
        "password,",
    ] {
        assert!(RequireAuth::parse(text).is_err(), "{text}");
    }
}
