//! [`nearest`]: the known name that a misspelt one may mean.

/// How alike two names must be, from 0 to 1.
const ALIKE: f64 = 0.8;

/// Returns the name that is most like `wanted`, if one is much like it. Upper case does not matter.
pub fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    let mut best = None;
    let mut best_likeness = ALIKE;
    for name in names {
        let likeness = strsim::jaro_winkler(&wanted, &name.to_lowercase());
        if likeness > best_likeness {
            best = Some(name);
            best_likeness = likeness;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_slip_is_found_and_another_one_is_not() {
        let names = ["users", "orders", "order_items", "Odd Name"];
        assert_eq!(nearest("user", names), Some("users"));
        assert_eq!(nearest("ORDERS", names), Some("orders"));
        assert_eq!(nearest("order_item", names), Some("order_items"));
        assert_eq!(nearest("odd name", names), Some("Odd Name"));
        assert_eq!(nearest("invoices", names), None);
        assert_eq!(nearest("x", []), None);
    }
}
