//! Connections are libpq's: with the same settings, this crate connects where psql does, to the
//! same server, as the same user, over TLS or not. No error shows a password.
//!
//! The settings stand in `cases/`, by kind. Each case is run by the psql of the server under test
//! and by this crate, side by side, on real servers: one without TLS, its standby, one with TLS
//! whose certificate changes, and ports that only look like servers.

mod cases;
mod certificates;
mod direct;
mod false_servers;
mod said;
mod version_1;
mod world;

use cases::{Case, Want};
use pg_connect::{ConnectError, Environment, SessionOptions, Target};
use std::error::Error as StdError;
use std::fmt::Write as _;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio_postgres::SimpleQueryMessage;
use world::World;

/// What a session says of itself: the port of the server, role, database, TLS, kind of address.
const WHERE: &str = "\
    SELECT current_setting('port'), current_user || '/' || current_database(),
        (SELECT CASE WHEN ssl THEN 'TLS' ELSE 'plain' END
            FROM pg_stat_ssl WHERE pid = pg_backend_pid()),
        CASE WHEN inet_server_addr() IS NULL THEN 'socket'
            ELSE 'ip' || family(inet_server_addr()) END,
        current_setting('application_name')";

/// The name that psql gives its sessions.
const NAME: &str = "psql";

/// The longest that a case may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The number of threads that run cases at once: each case mostly waits.
const THREADS: usize = 4;

/// The servers, for all tests of this process. They end with the process.
fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(World::start)
}

/// The session that a case led to, or why there was none.
type Outcome = Result<String, String>;

/// Runs the cases of a file, and fails with all that differ.
fn run(text: &str) {
    let world = world();
    let cases = cases::read(text);
    let mut differences = Vec::new();
    let _turn = cases
        .iter()
        .any(|case| case.certificate.is_some())
        .then(|| world.turn());
    // Cases behind each other that want the same certificate run at once.
    for group in cases.chunk_by(|one, other| one.certificate == other.certificate) {
        if let Some(certificate) = &group[0].certificate {
            world.show_certificate(certificate);
        }
        differences.extend(run_group(world, group));
    }
    assert!(
        differences.is_empty(),
        "{} of {} cases differ:\n{}",
        differences.len(),
        cases.len(),
        differences.join("\n")
    );
}

fn run_group(world: &World, cases: &[Case]) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut differences = Vec::new();
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            differences.extend(runtime.block_on(difference(world, case)));
        }
        differences
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        let found = threads.into_iter().map(|thread| thread.join().unwrap());
        found.flatten().collect()
    })
}

/// Runs a case, and returns in which way the result is another than it should be.
async fn difference(world: &World, case: &Case) -> Option<String> {
    let home = tempfile::tempdir_in(world.folder.path()).unwrap();
    let home = home.path();
    prepare(world, case, home);
    let conninfo = case.conninfo.as_ref().map(|text| world.fill(text, home));
    let variables = variables(world, case, home);
    let ours = by_us(world, conninfo.as_deref().unwrap_or_default(), &variables);
    let ours = tokio::time::timeout(PATIENCE, ours);
    let (ours, theirs) = match &case.want {
        Some(_) => (ours.await, None),
        None => {
            let theirs = by_psql(world, conninfo.as_deref(), &variables);
            let (ours, theirs) = tokio::join!(ours, theirs);
            (ours, Some(theirs))
        }
    };
    let ours = ours.unwrap_or_else(|_| Err("it hangs".to_string()));
    let shown = ours.as_ref().err().map_or("", String::as_str);
    if shown.contains("s3cr") || shown.contains("keypw") {
        return Some(format!("{}: A PASSWORD IS SHOWN: {shown}", case.name));
    }
    let is_right = match (&case.want, &theirs) {
        (Some(Want::No), _) => ours.is_err() && shown != "it hangs",
        (Some(Want::Up), _) => ours.is_ok(),
        (Some(Want::Either), _) => shown != "it hangs",
        (Some(Want::Session(wanted)), _) => ours
            .as_ref()
            .is_ok_and(|ours| ours.starts_with(wanted.as_str())),
        (None, Some(theirs)) => match (&ours, theirs) {
            (Ok(ours), Ok(theirs)) if case.compares_name => ours == theirs,
            (Ok(ours), Ok(theirs)) => without_name(ours) == without_name(theirs),
            (Err(_), Err(_)) => shown != "it hangs",
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
        },
        (None, None) => false,
    };
    (!is_right).then(|| format!("{}: {ours:?}, and psql: {theirs:?}", case.name))
}

fn without_name(session: &str) -> &str {
    session.rsplit_once(' ').map_or(session, |(rest, _)| rest)
}

/// Makes the files of a case.
fn prepare(world: &World, case: &Case, home: &Path) {
    for file in &case.files {
        let path = home.join(&file.name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, world.fill(&file.text, home)).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(file.mode)).unwrap();
    }
    for (name, target) in &case.links {
        let target = target.replace('~', &home.display().to_string());
        std::os::unix::fs::symlink(target, home.join(name)).unwrap();
    }
}

/// Returns the variables of a case.
fn variables(world: &World, case: &Case, home: &Path) -> Vec<(String, String)> {
    let home_text = home.display().to_string();
    let account = world.fill("{account}", home);
    let port = world.plain.port.to_string();
    let mut variables = vec![
        ("HOME", home_text.as_str()),
        ("USER", &account),
        ("LOGNAME", &account),
        ("LC_ALL", "C.UTF-8"),
    ];
    if case.is_usual {
        variables.extend([
            ("PGHOST", "127.0.0.1"),
            ("PGPORT", &port),
            ("PGUSER", "trustu"),
            ("PGDATABASE", "app"),
        ]);
    }
    let mut variables: Vec<(String, String)> = variables
        .into_iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    for (name, value) in &case.variables {
        variables.retain(|(earlier, _)| earlier != name);
        if let Some(value) = value {
            let value = world.fill(value, home);
            let value = match value.strip_prefix('~') {
                Some(rest) => format!("{home_text}{rest}"),
                None => value,
            };
            variables.push((name.clone(), value));
        }
    }
    variables
}

/// Connects by psql.
async fn by_psql(world: &World, conninfo: Option<&str>, variables: &[(String, String)]) -> Outcome {
    let mut command = Command::new(world.plain.cluster.program("psql"));
    command
        .args(["-X", "-w", "-Atq", "-F", " ", "-c", WHERE])
        .env_clear()
        .envs(variables.iter().cloned())
        .stdin(Stdio::null());
    if let Some(conninfo) = conninfo {
        command.args(["-d", conninfo]);
    }
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    let output = tokio::process::Command::from(command).output().await;
    let output = output.unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let line = String::from_utf8(output.stdout).unwrap();
    Ok(session(world, line.trim_end_matches('\n')))
}

/// Connects by this crate.
async fn by_us(world: &World, conninfo: &str, variables: &[(String, String)]) -> Outcome {
    let variables: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let target = Target::new(conninfo, Environment::of(&variables));
    let target = target.map_err(|error| full_text(&error))?;
    let connected = target
        .application_name(NAME)
        .connect(&SessionOptions::default())
        .await
        .map_err(|error| full_text(&error) + &advice(&error))?;
    let driver = tokio::spawn(connected.connection);
    let answer = connected.client.simple_query(WHERE).await;
    let answer = answer.map_err(|error| full_text(&error))?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let values: Vec<&str> = (0..5).map(|at| row.unwrap().get(at).unwrap()).collect();
    drop(connected.client);
    driver.await.unwrap().unwrap();
    Ok(session(world, &values.join(" ")))
}

/// Returns a session as the cases write it: `plain trustu/app plain ip4 psql`.
fn session(world: &World, line: &str) -> String {
    let (port, rest) = line.split_once(' ').unwrap();
    format!("{} {rest}", world.server_name(port))
}

/// Returns everything that an error could show.
fn full_text(error: &(dyn StdError + 'static)) -> String {
    let mut text = format!("{error} {error:?}");
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(text, ": {error}").unwrap();
        cause = error.source();
    }
    text
}

fn advice(error: &ConnectError) -> String {
    format!("; {:?} {:?}", error.hint(), error.details())
}

#[test]
fn urls() {
    run(include_str!("cases/url.txt"));
}

#[test]
fn pairs() {
    run(include_str!("cases/conninfo.txt"));
}

#[test]
fn variables_of_the_environment() {
    run(include_str!("cases/environment.txt"));
}

#[test]
fn further_parameters() {
    run(include_str!("cases/parameters.txt"));
}

#[test]
fn password_files() {
    run(include_str!("cases/password_file.txt"));
}

#[test]
fn service_files() {
    run(include_str!("cases/service_file.txt"));
}

#[test]
fn several_hosts_and_false_servers() {
    run(include_str!("cases/hosts.txt"));
    let heard = world().false_servers.heard.lock().unwrap();
    let heard = String::from_utf8_lossy(&heard);
    assert!(!heard.contains("s3cr"), "a password went to a false server");
}

#[test]
fn tls() {
    run(include_str!("cases/tls.txt"));
}
