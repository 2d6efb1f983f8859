//! [`Cluster`]: a throw-away PostgreSQL server, for the demo and for the tests.
//!
//! It listens on a unix socket in a private folder alone, and it is gone with whoever started it,
//! however that ends: a watchdog process waits on a pipe that only the starter holds, then stops
//! the server and removes the folder.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The oldest release that the triggers are made for.
const OLDEST: u32 = 13;
const PROGRAMS: [&str; 3] = ["initdb", "pg_ctl", "postgres"];
/// A socket's path may have 107 bytes; what is added to the folder is `/s/.s.PGSQL.5432`.
const LONGEST_FOLDER: usize = 80;

/// Why there is no throw-away server.
#[derive(Debug, thiserror::Error)]
pub enum ThrowawayError {
    /// The server's programs are not on this machine.
    #[error(
        "find PostgreSQL's server programs (initdb, pg_ctl, postgres): looked in $PGIC_PG_BIN, \
        PATH, pg_config --bindir \
         and the usual folders"
    )]
    NoServer,
    /// They are, but too old.
    #[error("PostgreSQL {found} in {} is too old: {OLDEST} is the oldest that \
        works", folder.display())]
    TooOld {
        /// Its major version.
        found: u32,
        /// Where it is.
        folder: PathBuf,
    },
    /// PostgreSQL refuses to run as root, and there is no user to run it as.
    #[error("run PostgreSQL as another user than root: none of postgres, nobody, daemon exists")]
    NoUser,
    /// The machine refused something.
    #[error("{doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// One of the server's programs failed.
    #[error("{doing}: {said}")]
    Program {
        /// What was tried.
        doing: String,
        /// What it said.
        said: String,
    },
}

/// How to install the server on the common systems.
pub const INSTALL_HINT: &str = "install it with one of\n  apt-get install postgresql        \
    (Debian, Ubuntu)\n  dnf install postgresql-server     \
     (Fedora, RHEL)\n  apk add postgresql                (Alpine)\n  brew install \
     postgresql           (macOS)\nor name the folder of \
     its programs in PGIC_PG_BIN";

/// How a cluster is set up.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Settings beyond those that make it fast and private.
    pub settings: Vec<(String, String)>,
}

/// A running server. Dropping it stops the server and removes its files.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    programs: PathBuf,
    user: Option<User>,
    version: u32,
    watchdog: Child,
}

#[derive(Debug, Clone, Copy)]
struct User {
    name: &'static str,
    uid: u32,
    gid: u32,
}

fn io_error(doing: impl Into<String>) -> impl FnOnce(io::Error) -> ThrowawayError {
    let doing = doing.into();
    |source| ThrowawayError::Io { doing, source }
}

impl Cluster {
    /// Makes a cluster and starts its server.
    ///
    /// # Errors
    /// When the server's programs are missing, or one of them fails.
    pub fn start(setup: &Setup) -> Result<Self, ThrowawayError> {
        let (programs, version) = find_programs()?;
        let user = unprivileged_user()?;
        let folder = private_folder(user)?;
        let watchdog = watchdog(&folder, &programs, user)?;
        let cluster = Self {
            folder,
            programs,
            user,
            version,
            watchdog,
        };
        cluster.initdb()?;
        cluster.run_server(setup)?;
        Ok(cluster)
    }

    /// The major version of the server.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The folder of its socket.
    pub fn socket_folder(&self) -> PathBuf {
        self.folder.join("s")
    }

    /// A URL for one of its databases, as its superuser `postgres`.
    pub fn url(&self, database: &str) -> String {
        const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
            .remove(b'-')
            .remove(b'.')
            .remove(b'_')
            .remove(b'~');
        let encode = |text: &str| utf8_percent_encode(text, RESERVED).to_string();
        format!(
            "postgresql://postgres@/{}?host={}",
            encode(database),
            self.socket_folder().display()
        )
    }

    /// Leaves the server running when this process ends.
    ///
    /// # Errors
    /// When the watchdog cannot be told.
    pub fn keep(mut self) -> Result<PathBuf, ThrowawayError> {
        let telling = io_error("tell the watchdog to leave the server running");
        match self.watchdog.stdin.take() {
            Some(mut pipe) => pipe.write_all(b"keep\n").map_err(telling)?,
            None => return Err(telling(io::ErrorKind::BrokenPipe.into())),
        }
        Ok(self.folder.clone())
    }

    /// The command that stops a server that was kept.
    pub fn stop_command(&self) -> String {
        let stop = format!(
            "{} -D {} -m fast stop",
            self.programs.join("pg_ctl").display(),
            self.data_folder().display()
        );
        let remove = format!("rm -r {}", self.folder.display());
        match self.user {
            Some(user) => format!("su {} -s /bin/sh -c '{stop} && {remove}'", user.name),
            None => format!("{stop} && {remove}"),
        }
    }

    /// Restarts the server, stopped in `mode`: smart, fast or immediate (which is a crash to its
    /// clients).
    ///
    /// # Errors
    /// When it does not come back.
    pub fn restart(&self, mode: &str) -> Result<(), ThrowawayError> {
        let data = self.data_folder();
        let log = self.folder.join("log");
        let arguments = [
            OsStr::new("-D"),
            data.as_os_str(),
            OsStr::new("-l"),
            log.as_os_str(),
            OsStr::new("-m"),
        ];
        let flags = [mode, "-w", "-t", "60", "restart"].map(OsStr::new);
        self.run("pg_ctl", arguments.into_iter().chain(flags))
    }

    /// Stops the server in `mode`.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn stop(&self, mode: &str) -> Result<(), ThrowawayError> {
        let data = self.data_folder();
        let arguments = [OsStr::new("-D"), data.as_os_str(), OsStr::new("-m")];
        let flags = [mode, "-w", "-t", "60", "stop"].map(OsStr::new);
        self.run("pg_ctl", arguments.into_iter().chain(flags))
    }

    /// Makes a standby that follows this server, which is stopped for as long as its files are
    /// copied.
    ///
    /// # Errors
    /// When the files cannot be copied, or one of the servers does not start.
    pub fn standby(&self) -> Result<Self, ThrowawayError> {
        let folder = private_folder(self.user)?;
        let watchdog = watchdog(&folder, &self.programs, self.user)?;
        let standby = Self {
            folder,
            programs: self.programs.clone(),
            user: self.user,
            version: self.version,
            watchdog,
        };
        self.stop("fast")?;
        let mut copy = Command::new("cp");
        copy.arg("-a")
            .arg(self.data_folder())
            .arg(standby.data_folder())
            .stdin(Stdio::null());
        become_user(&mut copy, self.user);
        let copied = copy
            .status()
            .map_err(io_error("copy the files of a server"))?;
        self.start_again()?;
        if !copied.success() {
            return Err(ThrowawayError::Program {
                doing: "run cp".to_string(),
                said: copied.to_string(),
            });
        }
        let settings = standby.data_folder().join("postgresql.auto.conf");
        let writing = |path: &Path| io_error(format!("write {}", path.display()));
        let mut lines = std::fs::read_to_string(&settings).map_err(writing(&settings))?;
        // The last line of a setting counts.
        lines.push_str(&format!(
            "unix_socket_directories = '{}'\nprimary_conninfo = 'host={} user=postgres'\n",
            standby.socket_folder().display(),
            self.socket_folder().display()
        ));
        std::fs::write(&settings, lines).map_err(writing(&settings))?;
        let signal = standby.data_folder().join("standby.signal");
        std::fs::write(&signal, "").map_err(writing(&signal))?;
        standby.start_again()?;
        Ok(standby)
    }

    fn start_again(&self) -> Result<(), ThrowawayError> {
        let data = self.data_folder();
        let log = self.folder.join("log");
        let arguments = [
            OsStr::new("-D"),
            data.as_os_str(),
            OsStr::new("-l"),
            log.as_os_str(),
        ];
        let flags = ["-w", "-t", "60", "start"].map(OsStr::new);
        self.run("pg_ctl", arguments.into_iter().chain(flags))
    }

    fn data_folder(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn initdb(&self) -> Result<(), ThrowawayError> {
        let data = self.data_folder();
        let fixed = [
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ];
        self.run(
            "initdb",
            fixed
                .iter()
                .map(OsStr::new)
                .chain([OsStr::new("-D"), data.as_os_str()]),
        )
    }

    fn run_server(&self, setup: &Setup) -> Result<(), ThrowawayError> {
        let socket_folder = self.socket_folder();
        let fixed = [
            (
                "unix_socket_directories",
                socket_folder.to_string_lossy().into_owned(),
            ),
            ("listen_addresses", String::new()),
            ("fsync", "off".to_string()),
            ("full_page_writes", "off".to_string()),
            ("max_connections", "200".to_string()),
            ("shared_buffers", "64MB".to_string()),
            ("log_min_messages", "fatal".to_string()),
        ];
        let given = setup
            .settings
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone()));
        let lines: String = fixed
            .into_iter()
            .chain(given)
            .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")))
            .collect();
        let data = self.data_folder();
        let settings_file = data.join("postgresql.auto.conf");
        std::fs::write(&settings_file, lines)
            .map_err(io_error(format!("write {}", settings_file.display())))?;
        let log = self.folder.join("log");
        let arguments = [
            OsStr::new("-D"),
            data.as_os_str(),
            OsStr::new("-l"),
            log.as_os_str(),
        ];
        let flags = ["-w", "-t", "60", "start"].map(OsStr::new);
        self.run("pg_ctl", arguments.into_iter().chain(flags))
            .map_err(|error| match error {
                ThrowawayError::Program { doing, said } => {
                    let log = std::fs::read_to_string(&log).unwrap_or_default();
                    ThrowawayError::Program {
                        doing,
                        said: format!("{said}\n{log}"),
                    }
                }
                other => other,
            })
    }

    fn run<'a>(
        &self,
        program: &str,
        arguments: impl Iterator<Item = &'a OsStr>,
    ) -> Result<(), ThrowawayError> {
        let path = self.programs.join(program);
        let mut command = Command::new(&path);
        command
            .args(arguments)
            .current_dir(&self.folder)
            .env("LC_ALL", "C");
        clear_connection_environment(&mut command);
        // Output goes to a file, not a pipe: the server inherits it and would keep a pipe open.
        let said = self.folder.join(format!("{program}.out"));
        let file =
            std::fs::File::create(&said).map_err(io_error(format!("write {}", said.display())))?;
        let error_file = file
            .try_clone()
            .map_err(io_error(format!("write {}", said.display())))?;
        command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(error_file)
            .process_group(0);
        become_user(&mut command, self.user);
        let status = command
            .status()
            .map_err(io_error(format!("run {}", path.display())))?;
        if status.success() {
            return Ok(());
        }
        let said = std::fs::read_to_string(&said).unwrap_or_default();
        Err(ThrowawayError::Program {
            doing: format!("run {}", path.display()),
            said: format!("{status}: {}", said.trim()),
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Closing the pipe tells the watchdog; it ends when the server is gone.
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// The variables that somebody has set for another server: every one of libpq's and of the server's
/// own programs.
pub fn variables_of_others() -> impl Iterator<Item = OsString> {
    let is_of_others =
        |name: &OsString| name.as_encoded_bytes().starts_with(b"PG") && name != "PGIC_PG_BIN";
    std::env::vars_os()
        .map(|(name, _)| name)
        .filter(is_of_others)
}

fn clear_connection_environment(command: &mut Command) {
    variables_of_others().for_each(|name| {
        command.env_remove(name);
    });
}

fn become_user(command: &mut Command, user: Option<User>) {
    if let Some(User { uid, gid, .. }) = user {
        command.gid(gid).uid(uid);
    }
}

/// Waits until the other end of its standard input is gone, then stops the server and removes the
/// folder. It is in a process group of its own, so that Ctrl-C in a terminal does not end it with
/// its starter.
fn watchdog(folder: &Path, programs: &Path, user: Option<User>) -> Result<Child, ThrowawayError> {
    const SCRIPT: &str = r#"
        word=
        read -r word
        [ "$word" = keep ] && exit 0
        [ -e "$2/data/postmaster.pid" ] && "$1/pg_ctl" -D "$2/data" -m immediate -w stop
        rm -rf "$2"
    "#;
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", SCRIPT, "sh"])
        .arg(programs)
        .arg(folder)
        .current_dir("/")
        .process_group(0);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    become_user(&mut command, user);
    command
        .spawn()
        .map_err(io_error("start the watchdog of a throw-away server"))
}

/// The user to run the server as: PostgreSQL refuses root.
fn unprivileged_user() -> Result<Option<User>, ThrowawayError> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id")
            .args(arguments)
            .stderr(Stdio::null())
            .output()
            .ok()?;
        String::from_utf8(output.stdout)
            .ok()?
            .trim()
            .parse::<u32>()
            .ok()
    };
    if id(&["-u"]) != Some(0) {
        return Ok(None);
    }
    let user = |name: &'static str| {
        Some(User {
            name,
            uid: id(&["-u", name])?,
            gid: id(&["-g", name])?,
        })
    };
    ["postgres", "_postgres", "nobody", "daemon"]
        .into_iter()
        .find_map(user)
        .map(Some)
        .ok_or(ThrowawayError::NoUser)
}

/// A folder that only the server's user can enter, with one for the socket.
fn private_folder(user: Option<User>) -> Result<PathBuf, ThrowawayError> {
    let base =
        Some(std::env::temp_dir()).filter(|base| base.as_os_str().len() + 12 < LONGEST_FOLDER);
    let base = base.unwrap_or_else(|| PathBuf::from("/tmp"));
    let folder = tempfile::Builder::new()
        .prefix("pgic-")
        .rand_bytes(6)
        .tempdir_in(&base);
    let folder = folder
        .map_err(io_error(format!("make a folder in {}", base.display())))?
        .keep();
    let socket_folder = folder.join("s");
    std::fs::create_dir(&socket_folder)
        .map_err(io_error(format!("make {}", socket_folder.display())))?;
    for path in [&folder, &socket_folder] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
            .map_err(io_error(format!("make {} private", path.display())))?;
        if let Some(User { uid, gid, .. }) = user {
            chown(path, Some(uid), Some(gid)).map_err(io_error(format!(
                "give {} to the server's user",
                path.display()
            )))?;
        }
    }
    Ok(folder)
}

/// The folder with the server's programs, and their major version.
fn find_programs() -> Result<(PathBuf, u32), ThrowawayError> {
    if let Some(given) = std::env::var_os("PGIC_PG_BIN").map(PathBuf::from) {
        return usable(&given).unwrap_or(Err(ThrowawayError::NoServer));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut too_old = None;
    for folder in std::env::split_paths(&path)
        .chain(configured_folder())
        .chain(usual_folders())
    {
        match usable(&folder) {
            Some(Ok(found)) => return Ok(found),
            Some(Err(error)) => too_old = Some(error),
            None => {}
        }
    }
    Err(too_old.unwrap_or(ThrowawayError::NoServer))
}

fn usable(folder: &Path) -> Option<Result<(PathBuf, u32), ThrowawayError>> {
    // A link on the PATH leads to the folder where the programs stand together.
    let folder = folder
        .join(PROGRAMS[0])
        .canonicalize()
        .ok()?
        .parent()?
        .to_path_buf();
    if !PROGRAMS
        .iter()
        .all(|program| folder.join(program).is_file())
    {
        return None;
    }
    let output = Command::new(folder.join("postgres"))
        .arg("--version")
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = text
        .split_whitespace()
        .nth(2)?
        .split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()?;
    Some(if found >= OLDEST {
        Ok((folder, found))
    } else {
        Err(ThrowawayError::TooOld { found, folder })
    })
}

fn configured_folder() -> Option<PathBuf> {
    let output = Command::new("pg_config")
        .arg("--bindir")
        .stderr(Stdio::null())
        .output()
        .ok()?;
    String::from_utf8(output.stdout)
        .ok()
        .map(|folder| PathBuf::from(folder.trim()))
}

/// Where distributions put the programs, newest version first.
fn usual_folders() -> Vec<PathBuf> {
    const PARENTS: [(&str, &str, &str); 8] = [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/usr/libexec", "postgresql", ""),
        ("/usr/lib", "postgresql", "bin"),
        ("/opt/homebrew/opt", "postgresql", "bin"),
        ("/usr/local/opt", "postgresql", "bin"),
        ("/opt/local/lib", "postgresql", "bin"),
        ("/usr/local", "pgsql", "bin"),
    ];
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, prefix, programs) in PARENTS {
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(rest) = name.strip_prefix(prefix) {
                let version = rest.trim_start_matches(['@', '-']).parse().unwrap_or(0);
                found.push((version, entry.path().join(programs)));
            }
        }
    }
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, folder)| folder).collect()
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PostgreSQL {} in {}",
            self.version,
            self.folder.display()
        )
    }
}
