//! [`CHECKS`]: every check, with its code, which never changes, and its page.

/// A check.
#[derive(Debug, PartialEq, Eq)]
pub struct Check {
    /// The code, for scripts: `PGIC012`. It is never given to another check.
    pub code: &'static str,
    /// The name, as `--only` and `--skip` take it as well.
    pub name: &'static str,
    /// The page that explains the check, as Markdown.
    pub page: &'static str,
}

/// Lists checks by their codes and names. The page of each is the file of its code.
macro_rules! checks {
    ($($code:literal $name:literal),* $(,)?) => {
        &[$(Check {
            code: $code,
            name: $name,
            page: include_str!(concat!("../../docs/checks/", $code, ".md")),
        }),*]
    };
}

/// All checks, in the order of their codes.
pub const CHECKS: &[Check] = checks![
    "PGIC001" "announced",
    "PGIC002" "trigger-fires",
    "PGIC003" "replica-role",
    "PGIC004" "subscriber",
    "PGIC005" "contract",
    "PGIC006" "drift",
    "PGIC007" "function",
    "PGIC008" "planted",
    "PGIC009" "several-triggers",
    "PGIC010" "truncate",
    "PGIC011" "key",
    "PGIC012" "relation",
    "PGIC013" "columns",
    "PGIC014" "long-rows",
    "PGIC015" "secrets",
    "PGIC016" "numbers",
    "PGIC017" "idle-updates",
    "PGIC018" "version",
    "PGIC019" "standby",
    "PGIC020" "pooler",
    "PGIC021" "delivery",
    "PGIC022" "queue",
    "PGIC023" "transactions",
    "PGIC024" "notify-lock",
    "PGIC025" "listeners",
    "PGIC026" "channels",
    "PGIC027" "prepared-transactions",
    "PGIC028" "sessions",
    "PGIC029" "tls",
    "PGIC030" "clock",
    "PGIC031" "privileges",
];

/// Returns the check that somebody means by its code or its name; `None` if there is none.
pub fn find_check(text: &str) -> Option<&'static Check> {
    let mut checks = CHECKS.iter();
    checks.find(|check| check.code.eq_ignore_ascii_case(text) || check.name == text)
}

/// Returns the check of this name.
///
/// # Panics
/// If there is none: the names stand in our own code, and a test runs every check.
pub(super) fn named(name: &str) -> &'static Check {
    find_check(name).unwrap_or_else(|| panic!("{name} is no check"))
}
