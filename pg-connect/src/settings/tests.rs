//! Settings that no session shows, and errors that repeat nothing.

use super::*;

fn settings(conninfo: &str, variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    Settings::read(conninfo, &Environment::of(variables))
}

fn error(conninfo: &str) -> String {
    match settings(conninfo, &[]) {
        Ok(_) => panic!("{conninfo} is understood"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn times_are_in_libpq_s_units() {
    let given = "host=h keepalives_idle=30 keepalives_interval=5 keepalives_count=7 \
        tcp_user_timeout=1500 connect_timeout=3";
    let given = settings(given, &[]).unwrap();
    assert_eq!(given.connect_timeout, Some(Duration::from_secs(3)));
    assert_eq!(
        given.keepalive,
        Keepalive {
            is_on: true,
            idle: Some(Duration::from_secs(30)),
            interval: Some(Duration::from_secs(5)),
            count: Some(7),
            unanswered: Some(Duration::from_millis(1500)),
        }
    );
    // 0 is the system's own, or no bound.
    let zero = "host=h keepalives=0 keepalives_idle=0 tcp_user_timeout=0 connect_timeout=0";
    let zero = settings(zero, &[]).unwrap();
    assert_eq!(zero.connect_timeout, None);
    assert!(!zero.keepalive.is_on);
    assert_eq!(zero.keepalive.idle, None);
    assert_eq!(zero.keepalive.unanswered, None);
    let default = settings("host=h", &[("PGCONNECT_TIMEOUT", "4")]).unwrap();
    assert_eq!(default.connect_timeout, Some(Duration::from_secs(4)));
    assert_eq!(default.keepalive.count, Some(3));
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    for (conninfo, expected) in [
        ("gssencmode=require", "gssencmode cannot be honoured"),
        ("replication=database", "replication cannot be honoured"),
        (
            "min_protocol_version=3.2",
            "min_protocol_version cannot be honoured",
        ),
        ("oauth_issuer=x", "oauth_issuer cannot be honoured"),
        ("scram_client_key=x", "scram_client_key cannot be honoured"),
        ("sslkeylogfile=x", "sslkeylogfile cannot be honoured"),
        (
            "ssl_max_protocol_version=TLSv1.1 ssl_min_protocol_version=TLSv1",
            "ssl_max_protocol_version cannot be honoured: TLS before 1.2 is not spoken",
        ),
        (
            "sslrootcert=system sslmode=require",
            "sslrootcert=system needs sslmode=verify-full, and require is weaker",
        ),
        (
            "sslnegotiation=direct",
            "sslnegotiation=direct needs sslmode=require or stronger, and prefer is weaker",
        ),
        (
            "sslmode=x",
            "sslmode is none of disable, allow, prefer, require",
        ),
        (
            "connect_timeout=soon",
            "connect_timeout is not a number of seconds",
        ),
        (
            "host=a,b port=1,2,3",
            "3 ports for 2 hosts: give one for each host, or one for all",
        ),
    ] {
        let error = error(conninfo);
        assert!(error.starts_with(expected), "{conninfo}: {error}");
    }
}

// Without the check, the rest of the password would be printed with the name of the host.
#[test]
fn a_name_that_may_hold_a_password_is_refused() {
    for conninfo in [
        "postgresql://u:/geheim@h/d",
        "postgresql://u:12/geheim@h/d",
        "host=h user= password=geheim dbname=d",
        "host=h dbname= password=geheim user=u",
        "host=h sslrootcert= password=geheim",
        "host=h port=geheim@x",
        "postgresql://u:p/geheim@h:1/d",
        "host=h dbname=u:geheim@h",
        "host=h user=postgresql://u:geheim@h",
        "host=h sslrootcert=postgresql://u:geheim@h",
        "service=u:geheim@h",
    ] {
        let error = error(conninfo);
        assert!(error.contains("not repeated"), "{conninfo}: {error}");
        assert!(!error.contains("geheim"), "{conninfo}: {error}");
    }
}

#[test]
fn the_values_of_variables_are_not_shown() {
    let environment = Environment::of(&[("PGPASSWORD", "geheim"), ("PGUSER", "ann")]);
    let shown = format!("{environment:?}");
    assert_eq!(shown, "Environment({\"PGPASSWORD\", \"PGUSER\"})");
}

/// Puts pieces of connection strings together at random. Each result is understood or refused, and
/// no error repeats the password.
#[test]
fn no_error_repeats_a_password() {
    const PIECES: [&str; 30] = [
        "geheim",
        "postgresql://",
        "postgres://",
        "mysql://",
        "ann",
        ":",
        "@",
        "/",
        "?",
        "&",
        "=",
        " ",
        "'",
        "\"",
        "\\",
        "%40",
        "%zz",
        "host",
        "port=",
        "password=",
        "dbname=",
        "sslmode=",
        "h",
        "5432",
        "[::1]",
        ",",
        "+asyncpg",
        "options",
        "\u{1b}",
        "jdbc:",
    ];
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..100_000 {
        let text: String = (0..random.usize(1..12))
            .map(|_| PIECES[random.usize(0..PIECES.len())])
            .collect();
        let before_scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
        // An error repeats the scheme.
        if before_scheme.contains("geheim") {
            continue;
        }
        if let Err(refused) = settings(&text, &[]) {
            let said = format!(
                "{}: {:?}",
                crate::failure::full_text(&refused),
                refused.hint()
            );
            assert!(!said.contains("geheim"), "{text}: {said}");
        }
    }
}
