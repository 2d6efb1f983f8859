//! What is said: errors and notices in full, and what is read anew at each connect.

use crate::world;
use pg_connect::{AskWhen, ConnectError, Connected, Environment, Password, SessionOptions, Target};
use std::error::Error as StdError;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The password of the role `u`.
const PASSWORD: &str = "s3cr et:p@\\ss'%41";

fn target(conninfo: &str, home: &Path, variables: &[(&str, &str)]) -> Target {
    let home_text = home.display().to_string();
    let variables = [&[("HOME", home_text.as_str())], variables].concat();
    Target::new(&world().fill(conninfo, home), Environment::of(&variables)).unwrap()
}

async fn connect(target: &Target) -> Result<Connected, ConnectError> {
    target.connect(&SessionOptions::default()).await
}

/// Returns the error with its causes, its details and the hint, each on a line.
async fn error(conninfo: &str) -> String {
    let home = tempfile::tempdir().unwrap();
    let error = connect(&target(conninfo, home.path(), &[]))
        .await
        .unwrap_err();
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    let mut lines = vec![line];
    lines.extend(error.details());
    lines.extend(error.hint());
    lines.join("\n")
}

// Not an async test: the turn is held while it waits.
#[test]
fn a_certificate_is_refused_with_the_reason() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = world();
    let _turn = world.turn();
    let full = "host=localhost port={tls} user=trustu dbname=app sslmode=verify-full \
        sslrootcert={certs}/";
    for (certificate, root, expected) in [
        (
            "expired",
            "ca.crt",
            "the server's certificate (CN=ignored, issued by CN=ca) expired at \
            2020-02-01T00:00:00Z",
        ),
        (
            "wrong",
            "ca.crt",
            "the server's certificate (CN=localhost, issued by CN=ca) is for \"db.example\", and \
            not for \"localhost\"\nname the host as the certificate does",
        ),
        (
            "eku",
            "ca.crt",
            "the server's certificate (CN=ignored, issued by CN=ca) is not for servers",
        ),
        (
            "good",
            "other.crt",
            "the server's certificate (CN=ignored, issued by CN=ca) is of no authority that is \
            trusted\nput the certificate of \"CN=ca\" into the file that sslrootcert names",
        ),
        (
            "good",
            "ca.crt sslcrl={certs}/revoked.crl",
            "the server's certificate (CN=ignored, issued by CN=ca) was revoked",
        ),
        (
            "good",
            "ca.crt sslcrl={certs}/old.crl",
            "the server's certificate (CN=ignored, issued by CN=ca) cannot be looked up: its \
            issuer's revocation list ended at 2020-01-01T00:00:00Z",
        ),
        ("good", "none.crt", "there is no root certificate file "),
    ] {
        world.show_certificate(certificate);
        let said = runtime.block_on(error(&format!("{full}{root}")));
        assert!(said.starts_with(expected), "{certificate}: {said}");
    }
}

#[tokio::test]
async fn a_refusal_says_what_would_be_taken() {
    let on_tls = "host=127.0.0.1 port={tls} dbname=app";
    for (conninfo, expected) in [
        (
            "host=127.0.0.1 port={plain} user=trustu dbname=app sslmode=require".to_string(),
            "it does not take TLS, which sslmode=require requires",
        ),
        (
            format!("{on_tls} user=sslonly sslmode=disable"),
            "the server may take this connection over TLS alone: sslmode=require",
        ),
        (
            format!("{on_tls} user=nossl sslmode=require"),
            "pg_hba.conf has no line for this user",
        ),
        (
            format!("{on_tls} user=u sslmode=disable"),
            "the server asks for a password, and none is given\nset PGPASSWORD",
        ),
        (
            format!(
                "{on_tls} user=certu sslmode=require sslcert={{certs}}/wrongca.crt \
                sslkey={{certs}}/wrongca.key"
            ),
            "the server refuses the client's certificate: it does not know who issued it",
        ),
        (
            format!(
                "{on_tls} user=certu sslmode=require sslcert={{certs}}/certu.crt \
                sslkey={{certs}}/pkcs8enc.key"
            ),
            "convert it: openssl pkcs8 -topk8 -nocrypt -in ",
        ),
        (
            "host=127.0.0.1,127.0.0.1 port=1,{standby} user=trustu dbname=app \
            target_session_attrs=primary"
                .to_string(),
            ": it is a standby, and target_session_attrs=primary wants another",
        ),
    ] {
        let said = error(&conninfo).await;
        assert!(said.contains(expected), "{conninfo}: {said}");
    }
    // Of several hosts, each says what was wrong with it.
    let said = error("host=127.0.0.1,nowhere.invalid port=1,2 user=u").await;
    assert!(
        said.starts_with("127.0.0.1:1: it cannot be reached: Connection refused"),
        "{said}"
    );
    assert!(
        said.contains("; nowhere.invalid:2: its name cannot be looked up"),
        "{said}"
    );
}

#[tokio::test]
async fn a_wrong_password_is_told_with_the_place_it_came_from() {
    let home = tempfile::tempdir().unwrap();
    write(
        &home.path().join(".pgpass"),
        "# mine\n*:*:*:*:wrong\n",
        0o600,
    );
    let conninfo = "host=127.0.0.1 port={plain} user=u dbname=app";
    let error = connect(&target(conninfo, home.path(), &[]))
        .await
        .unwrap_err();
    let file = home.path().join(".pgpass");
    assert_eq!(
        error.details(),
        [format!(
            "the password came from line 2 of {}",
            file.display()
        )]
    );
    // Over TLS and without, the password is as wrong: it is told once.
    assert_eq!(error.to_string(), "the server refuses");
    let variable = target(conninfo, home.path(), &[("PGPASSWORD", "wrong")]);
    let error = connect(&variable).await.unwrap_err();
    assert_eq!(error.details(), ["the password came from PGPASSWORD"]);
}

fn write(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

// A service moved to another server, and a password was changed: a session that is opened again
// must see both.
#[tokio::test]
async fn files_are_read_anew_at_each_connect() {
    let world = world();
    let home = tempfile::tempdir().unwrap();
    let service = home.path().join(".pg_service.conf");
    let passwords = home.path().join(".pgpass");
    let text = |port: u16| format!("[mine]\nhost=127.0.0.1\nport={port}\nuser=u\ndbname=app\n");
    let escaped = PASSWORD.replace('\\', "\\\\").replace(':', "\\:");
    write(&service, &text(1), 0o600);
    write(&passwords, "*:*:*:*:wrong\n", 0o600);
    let target = target("service=mine", home.path(), &[]);
    connect(&target).await.unwrap_err();
    write(&service, &text(world.plain.port), 0o600);
    let refused = connect(&target).await.unwrap_err();
    assert!(refused.details()[0].contains("line 1 of"), "{refused}");
    write(&passwords, &format!("*:*:*:*:{escaped}\n"), 0o600);
    connect(&target).await.unwrap();
}

#[tokio::test]
async fn a_password_file_that_others_may_read_is_not_used_and_that_is_said() {
    let home = tempfile::tempdir().unwrap();
    let passwords = home.path().join(".pgpass");
    write(&passwords, "*:*:*:*:x\n", 0o644);
    let conninfo = "host=127.0.0.1 port={plain} user=trustu dbname=app";
    let connected = connect(&target(conninfo, home.path(), &[])).await.unwrap();
    let path = passwords.display();
    assert_eq!(
        connected.notices,
        [format!(
            "the password file {path} is not used: group or others may access it: chmod 0600 {path}"
        )]
    );
}

#[tokio::test]
async fn a_command_prints_the_password_for_each_connect() {
    let world = world();
    let home = tempfile::tempdir().unwrap();
    let conninfo = "host=127.0.0.1 port={plain} user=u dbname=app";
    write(
        &home.path().join("password"),
        &format!("{PASSWORD}\nmore\n"),
        0o600,
    );
    let log = home.path().join("log");
    let command = format!(
        "echo $PGUSER@$PGHOST:$PGPORT/$PGDATABASE >> {}; cat {}/password",
        log.display(),
        home.path().display()
    );
    // The command counts more than the variable.
    let by_command =
        target(conninfo, home.path(), &[("PGPASSWORD", "wrong")]).password_command(command);
    connect(&by_command).await.unwrap();
    connect(&by_command).await.unwrap();
    let line = format!("u@127.0.0.1:{}/app\n", world.plain.port);
    assert_eq!(std::fs::read_to_string(&log).unwrap(), line.repeat(2));
    for (command, expected) in [
        ("exit 3", "the password command ended with exit status: 3"),
        ("true", "the password command printed no password"),
    ] {
        let failing = target(conninfo, home.path(), &[]).password_command(command);
        let error = connect(&failing).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

/// Returns a function that answers, and counts how often it was asked.
fn person(answer: Option<&'static str>) -> (Arc<pg_connect::AskPassword>, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let ask = move |question: &str| {
        assert_eq!(question, "Password for user u: ");
        counted.fetch_add(1, Ordering::SeqCst);
        Ok(answer.map(Password::new))
    };
    (Arc::new(ask), count)
}

#[tokio::test]
async fn a_person_is_asked_once_and_only_if_that_is_needed() {
    let home = tempfile::tempdir().unwrap();
    let conninfo = "host=127.0.0.1 port={plain} user=u dbname=app";
    let (ask, count) = person(Some(PASSWORD));
    let asked = target(conninfo, home.path(), &[]).ask_password(ask, AskWhen::Needed);
    let (first, second) = tokio::join!(connect(&asked), connect(&asked));
    first.unwrap();
    second.unwrap();
    connect(&asked.clone()).await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1);

    let (ask, count) = person(Some(PASSWORD));
    let given = target(conninfo, home.path(), &[("PGPASSWORD", PASSWORD)]);
    connect(&given.ask_password(ask, AskWhen::Needed))
        .await
        .unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 0);

    let (ask, count) = person(Some("wrong"));
    let wrong = target(conninfo, home.path(), &[]).ask_password(ask, AskWhen::Needed);
    let error = connect(&wrong).await.unwrap_err();
    assert_eq!(error.details(), ["the password came from the prompt"]);
    assert_eq!(count.load(Ordering::SeqCst), 1);

    // Nobody is there.
    let (ask, _) = person(None);
    let alone = target(conninfo, home.path(), &[]).ask_password(ask, AskWhen::Needed);
    let error = connect(&alone).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the server asks for a password, and none is given"
    );

    let (ask, count) = person(Some("x"));
    let always = "host=127.0.0.1 port={plain} user=u dbname=app password=y";
    let always = target(always, home.path(), &[]).ask_password(ask, AskWhen::Always);
    connect(&always).await.unwrap_err();
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

// The address 0.0.0.0 leads to this machine, and is not known as an address of it.
#[tokio::test]
async fn plaintext_that_nobody_asked_for_is_said_with_the_reason() {
    let home = tempfile::tempdir().unwrap();
    for (conninfo, expected) in [
        (
            "host=0.0.0.0 port={plain} user=trustu dbname=app",
            Some("the server does not take TLS"),
        ),
        (
            "host=0.0.0.0 port={tls} user=nossl dbname=app",
            Some("over TLS, the server refuses: pg_hba.conf rejects connection"),
        ),
        (
            "host=0.0.0.0 port={tls} user=trustu dbname=app sslrootcert={certs}/junk.crt",
            Some("over TLS, the root certificate file"),
        ),
        ("host=0.0.0.0 port={tls} user=trustu dbname=app", None),
        (
            "host=0.0.0.0 port={plain} user=trustu dbname=app sslmode=disable",
            None,
        ),
        ("host=127.0.0.1 port={plain} user=trustu dbname=app", None),
    ] {
        let connected = connect(&target(conninfo, home.path(), &[])).await.unwrap();
        let notices = connected.notices.join("\n");
        match expected {
            Some(expected) => {
                let start = "the connection to 0.0.0.0:";
                assert!(notices.starts_with(start), "{conninfo}: {notices}");
                assert!(notices.contains(expected), "{conninfo}: {notices}");
            }
            None => assert_eq!(notices, "", "{conninfo}"),
        }
    }
    let clear = "host=0.0.0.0 port={plain} user=pwu dbname=app password=clearpw sslmode=disable";
    let connected = connect(&target(clear, home.path(), &[])).await.unwrap();
    assert!(
        connected.notices[0].starts_with("the password went to 0.0.0.0:"),
        "{:?}",
        connected.notices
    );
}

#[tokio::test]
async fn of_several_hosts_the_primary_is_taken_for_a_session_that_needs_it() {
    let home = tempfile::tempdir().unwrap();
    let options = SessionOptions {
        name_suffix: " (test)".to_string(),
        prefers_primary: true,
        ..SessionOptions::default()
    };
    for (more, is_standby) in [("", false), ("target_session_attrs=any", true)] {
        let conninfo = format!(
            "host=127.0.0.1,127.0.0.1 port={{standby}},{{plain}} user=trustu dbname=app {more}"
        );
        let target = target(&conninfo, home.path(), &[]).application_name("name");
        let connected = target.connect(&options).await.unwrap();
        let reported = connected.connection.parameter("application_name");
        assert_eq!(reported, Some("name (test)"));
        tokio::spawn(connected.connection);
        let row = connected
            .client
            .query_one("SELECT pg_is_in_recovery()", &[]);
        assert_eq!(row.await.unwrap().get::<_, bool>(0), is_standby, "{more}");
    }
}
