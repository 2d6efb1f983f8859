//! [`Cluster`]: a throw-away PostgreSQL server, for the demo and for the tests.
//!
//! The server listens only on a unix socket in a private folder. Server and folder are gone when
//! the process that started them has ended, even by a crash or SIGKILL: a watchdog process sees the
//! end of a pipe that only the starter holds.
//!
//! ```text
//! starter ─ pipe ─→ watchdog:  the pipe ends      → stop the server, remove the folder
//!                              it brings "keep"   → end, and leave the server running
//! ```

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::Permissions;
use std::io::{self, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The oldest major version of PostgreSQL that the triggers are made for.
const OLDEST: u32 = 13;
/// The programs of the server that must stand in one folder.
const PROGRAMS: [&str; 3] = ["initdb", "pg_ctl", "postgres"];
/// The longest path of a folder, in bytes. A socket's path may have 107 bytes, and
/// `/s/.s.PGSQL.5432` is added to that of the folder.
const LONGEST_FOLDER: usize = 80;

/// The reason why there is no throw-away server.
#[derive(Debug, thiserror::Error)]
pub enum ThrowawayError {
    /// The server's programs are not on this machine.
    #[error(
        "find PostgreSQL's server programs (initdb, pg_ctl, postgres): looked in $PGIC_PG_BIN, \
         PATH, pg_config --bindir and the usual folders"
    )]
    NoServer,
    /// The server's programs are on this machine, but too old.
    #[error(
        "PostgreSQL {found} in {} is too old: {OLDEST} is the oldest that works",
        folder.display()
    )]
    TooOld {
        /// The major version of the server's programs.
        found: u32,
        /// The folder of the server's programs.
        folder: PathBuf,
    },
    /// This process runs as root, PostgreSQL refuses to, and there is no other user to run the
    /// server as.
    #[error("run PostgreSQL as another user than root: none of postgres, nobody, daemon exists")]
    NoUser,
    /// A call of the operating system failed.
    #[error("{doing}: {source}")]
    Io {
        /// The action that failed, as an imperative.
        doing: String,
        /// The system's error.
        source: io::Error,
    },
    /// One of the server's programs failed.
    #[error("{doing}: {said}")]
    Program {
        /// The action that failed, as an imperative.
        doing: String,
        /// The program's output.
        said: String,
    },
}

/// The commands that install the server on the common systems, for people.
pub const INSTALL_HINT: &str = "install it with one of
  apt-get install postgresql        (Debian, Ubuntu)
  dnf install postgresql-server     (Fedora, RHEL)
  apk add postgresql                (Alpine)
  brew install postgresql           (macOS)
or name the folder of its programs in PGIC_PG_BIN";

/// The options of a cluster.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Names and values of PostgreSQL settings. They come after the settings that make the server
    /// fast and private, and override them.
    pub settings: Vec<(String, String)>,
}

/// A running server. Dropping it stops the server and removes its files.
#[derive(Debug)]
pub struct Cluster {
    /// The folder that holds everything of the server: data, socket and log.
    folder: PathBuf,
    /// The folder of the server's programs.
    programs: PathBuf,
    /// The user that the server runs as; `None` for the user of this process.
    user: Option<User>,
    /// The major version.
    version: u32,
    /// The process that ends the server; see [`watchdog`].
    watchdog: Child,
}

/// A user of the operating system.
#[derive(Debug, Clone, Copy)]
struct User {
    name: &'static str,
    uid: u32,
    gid: u32,
}

/// Returns a function that makes a [`ThrowawayError`] of a system's error. `doing` is the action
/// that failed.
fn io_error(doing: impl Into<String>) -> impl FnOnce(io::Error) -> ThrowawayError {
    let doing = doing.into();
    |source| ThrowawayError::Io { doing, source }
}

impl Cluster {
    /// Makes a cluster and starts its server.
    ///
    /// # Errors
    /// If the server's programs are missing or too old, or if one of them fails.
    pub fn start(setup: &Setup) -> Result<Self, ThrowawayError> {
        let Programs {
            folder: programs,
            version,
        } = find_programs()?;
        let user = unprivileged_user()?;
        let folder = private_folder(user)?;
        // Before anything else is done in the folder: from here on, the folder is removed whatever
        // fails.
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

    /// Returns the major version of the server.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Returns the folder of the server's socket.
    pub fn socket_folder(&self) -> PathBuf {
        self.folder.join("s")
    }

    /// Returns a connection URL for one of the server's databases, as the superuser `postgres`.
    pub fn url(&self, database: &str) -> String {
        // All bytes but those that RFC 3986 calls unreserved.
        const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
            .remove(b'-')
            .remove(b'.')
            .remove(b'_')
            .remove(b'~');
        format!(
            "postgresql://postgres@/{}?host={}",
            utf8_percent_encode(database, RESERVED),
            self.socket_folder().display()
        )
    }

    /// Leaves the server running when this process ends.
    ///
    /// Returns the folder of the server.
    ///
    /// # Errors
    /// If the watchdog cannot be told to spare the server.
    pub fn keep(mut self) -> Result<PathBuf, ThrowawayError> {
        let telling = io_error("tell the watchdog to leave the server running");
        match self.watchdog.stdin.take() {
            Some(mut pipe) => pipe.write_all(b"keep\n").map_err(telling)?,
            None => return Err(telling(io::ErrorKind::BrokenPipe.into())),
        }
        Ok(self.folder.clone())
    }

    /// Returns the shell command that stops the server and removes its folder, for a server that
    /// was kept.
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

    /// Restarts the server. `mode` is how it is stopped: `smart`, `fast` or `immediate`, which is a
    /// crash to the clients.
    ///
    /// # Errors
    /// If the server does not come back.
    pub fn restart(&self, mode: &str) -> Result<(), ThrowawayError> {
        let data = self.data_folder();
        let log = self.log_file();
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

    /// Stops the server in `mode`; see [`restart`](Self::restart).
    ///
    /// # Errors
    /// If the server does not stop.
    pub fn stop(&self, mode: &str) -> Result<(), ThrowawayError> {
        let data = self.data_folder();
        let arguments = [OsStr::new("-D"), data.as_os_str(), OsStr::new("-m")];
        let flags = [mode, "-w", "-t", "60", "stop"].map(OsStr::new);
        self.run("pg_ctl", arguments.into_iter().chain(flags))
    }

    /// Adds settings, which override those of before, and restarts the server.
    ///
    /// # Errors
    /// If the settings cannot be written, or the server does not come back.
    pub fn configure(&self, settings: &[(&str, &str)]) -> Result<(), ThrowawayError> {
        let file = self.settings_file();
        let mut lines =
            std::fs::read_to_string(&file).map_err(io_error(format!("read {}", file.display())))?;
        for (name, value) in settings {
            lines.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        write_file(&file, &lines)?;
        self.restart("fast")
    }

    /// Writes a file of the data folder, such as `pg_hba.conf` or `server.key`, which belongs to
    /// the server's user alone. [`reload`](Self::reload) makes the server read it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_data(&self, name: &str, text: &str) -> Result<(), ThrowawayError> {
        let path = self.data_folder().join(name);
        let writing = || format!("write {}", path.display());
        // Written aside and moved, so that the server never reads a half of it.
        let new = self.data_folder().join(format!("{name}.new"));
        write_file(&new, text)?;
        std::fs::set_permissions(&new, Permissions::from_mode(0o600))
            .map_err(io_error(writing()))?;
        if let Some(User { uid, gid, .. }) = self.user {
            chown(&new, Some(uid), Some(gid)).map_err(io_error(writing()))?;
        }
        std::fs::rename(&new, &path).map_err(io_error(writing()))
    }

    /// Tells the server to read its files anew.
    ///
    /// # Errors
    /// If the server cannot be told.
    pub fn reload(&self) -> Result<(), ThrowawayError> {
        let data = self.data_folder();
        let arguments = [OsStr::new("-D"), data.as_os_str(), OsStr::new("reload")];
        self.run("pg_ctl", arguments.into_iter())
    }

    /// Returns the path of one of PostgreSQL's programs, such as `psql`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Makes a standby that follows this server. The server is stopped while its files are copied.
    ///
    /// # Errors
    /// If the files cannot be copied, or one of the servers does not start.
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
        // Before the copy is checked: the server is up again even if the copy has failed.
        self.start_again()?;
        if !copied.success() {
            return Err(ThrowawayError::Program {
                doing: "run cp".to_string(),
                said: copied.to_string(),
            });
        }
        let settings = standby.settings_file();
        let mut lines = std::fs::read_to_string(&settings)
            .map_err(io_error(format!("read {}", settings.display())))?;
        // The copied file sets the socket folder of the primary. Of two lines for one setting, the
        // last counts.
        lines.push_str(&format!(
            "unix_socket_directories = '{}'\nprimary_conninfo = 'host={} user=postgres'\n",
            standby.socket_folder().display(),
            self.socket_folder().display()
        ));
        write_file(&settings, &lines)?;
        write_file(&standby.data_folder().join("standby.signal"), "")?;
        standby.start_again()?;
        Ok(standby)
    }

    /// Starts the server on its data folder, and waits until the server takes connections.
    fn start_again(&self) -> Result<(), ThrowawayError> {
        let data = self.data_folder();
        let log = self.log_file();
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

    fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Returns the file whose settings override those of `postgresql.conf`.
    fn settings_file(&self) -> PathBuf {
        self.data_folder().join("postgresql.auto.conf")
    }

    /// Makes the data folder.
    fn initdb(&self) -> Result<(), ThrowawayError> {
        let data = self.data_folder();
        // The private folder keeps other users out, so the server need not ask for passwords. Files
        // that are thrown away need not be synced to disk.
        let fixed = [
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "-D",
        ];
        let arguments = fixed.iter().map(OsStr::new).chain([data.as_os_str()]);
        self.run("initdb", arguments)
    }

    /// Starts the server for the first time, with its settings.
    fn run_server(&self, setup: &Setup) -> Result<(), ThrowawayError> {
        let socket_folder = self.socket_folder();
        let socket_folder = socket_folder.to_string_lossy();
        let fixed = [
            ("unix_socket_directories", &*socket_folder),
            ("listen_addresses", ""),
            ("fsync", "off"),
            ("full_page_writes", "off"),
            ("max_connections", "200"),
            ("shared_buffers", "64MB"),
            ("log_min_messages", "fatal"),
        ];
        let given = setup
            .settings
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let lines: String = fixed
            .into_iter()
            .chain(given)
            .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")))
            .collect();
        write_file(&self.settings_file(), &lines)?;
        // `pg_ctl` says only that the server did not start. The reason is in the server's log.
        self.start_again().map_err(|error| match error {
            ThrowawayError::Program { doing, said } => {
                let log = std::fs::read_to_string(self.log_file()).unwrap_or_default();
                ThrowawayError::Program {
                    doing,
                    said: format!("{said}\n{log}"),
                }
            }
            other => other,
        })
    }

    /// Runs one of the server's programs as the server's user, and waits for its end.
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
            // A group of its own: Ctrl-C in a terminal does not reach the server.
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
        // The watchdog sees the pipe closed, and ends when the server and its folder are gone.
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// Returns the names of the environment variables that are set for another server: all those that
/// libpq and the server's own programs read.
pub fn variables_of_others() -> impl Iterator<Item = OsString> {
    std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| name.as_encoded_bytes().starts_with(b"PG") && name != "PGIC_PG_BIN")
}

/// Takes the variables out of a command's environment that are set for another server.
fn clear_connection_environment(command: &mut Command) {
    for name in variables_of_others() {
        command.env_remove(name);
    }
}

/// Makes a command run as `user`, if there is one.
fn become_user(command: &mut Command, user: Option<User>) {
    if let Some(User { uid, gid, .. }) = user {
        command.gid(gid).uid(uid);
    }
}

/// Starts the watchdog of a server: a shell that waits until its standard input ends, then stops
/// the server and removes the folder. If a line `keep` comes first, the watchdog does neither.
fn watchdog(folder: &Path, programs: &Path, user: Option<User>) -> Result<Child, ThrowawayError> {
    // `immediate` makes no checkpoint: the data is thrown away.
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
        // Not in the folder that is to be removed.
        .current_dir("/")
        // A group of its own: Ctrl-C in a terminal would end the watchdog along with the starter.
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

/// Returns the user to run the server as; `None` for the user of this process. PostgreSQL refuses
/// to run as root.
fn unprivileged_user() -> Result<Option<User>, ThrowawayError> {
    if user_number(&["-u"]) != Some(0) {
        return Ok(None);
    }
    ["postgres", "_postgres", "nobody", "daemon"]
        .into_iter()
        .find_map(User::of_name)
        .map(Some)
        .ok_or(ThrowawayError::NoUser)
}

impl User {
    /// Returns the user with this name, if there is one.
    fn of_name(name: &'static str) -> Option<Self> {
        Some(Self {
            name,
            uid: user_number(&["-u", name])?,
            gid: user_number(&["-g", name])?,
        })
    }
}

/// Returns the number that the program `id` prints for these arguments.
fn user_number(arguments: &[&str]) -> Option<u32> {
    let output = Command::new("id")
        .args(arguments)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.trim().parse().ok()
}

/// Makes a file with this content, in place of the one that may be there.
fn write_file(path: &Path, content: &str) -> Result<(), ThrowawayError> {
    std::fs::write(path, content).map_err(io_error(format!("write {}", path.display())))
}

/// Makes a folder that only the server's user can enter, with a folder for the socket.
fn private_folder(user: Option<User>) -> Result<PathBuf, ThrowawayError> {
    // `/pgic-` and six random letters are twelve bytes. In a longer temporary
    // folder, the path of the socket would be too long.
    let base =
        Some(std::env::temp_dir()).filter(|base| base.as_os_str().len() + 12 < LONGEST_FOLDER);
    let base = base.unwrap_or_else(|| PathBuf::from("/tmp"));
    let folder = tempfile::Builder::new()
        .prefix("pgic-")
        .rand_bytes(6)
        .tempdir_in(&base);
    // `keep`: the watchdog removes the folder, after the server is gone.
    let folder = folder
        .map_err(io_error(format!("make a folder in {}", base.display())))?
        .keep();
    let socket_folder = folder.join("s");
    std::fs::create_dir(&socket_folder)
        .map_err(io_error(format!("make {}", socket_folder.display())))?;
    for path in [&folder, &socket_folder] {
        std::fs::set_permissions(path, Permissions::from_mode(0o700))
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

/// The server's programs on this machine.
struct Programs {
    folder: PathBuf,
    /// The major version.
    version: u32,
}

/// Finds the server's programs: in `$PGIC_PG_BIN` alone if that is set, else in the first folder
/// that has them in a version that is not too old.
fn find_programs() -> Result<Programs, ThrowawayError> {
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

/// Looks for the server's programs in a folder. Returns `None` if they are not there, and an error
/// if they are too old.
fn usable(folder: &Path) -> Option<Result<Programs, ThrowawayError>> {
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
    // The third word is the version: `postgres (PostgreSQL) 15.4 (Debian …)`, `… 18beta1`.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().nth(2)?;
    let major = version.split(|c: char| !c.is_ascii_digit()).next()?;
    let found = major.parse().ok()?;
    Some(if found >= OLDEST {
        Ok(Programs {
            folder,
            version: found,
        })
    } else {
        Err(ThrowawayError::TooOld { found, folder })
    })
}

/// Returns the folder that `pg_config` names, if that program is on the PATH.
fn configured_folder() -> Option<PathBuf> {
    let output = Command::new("pg_config")
        .arg("--bindir")
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let folder = String::from_utf8(output.stdout).ok()?;
    Some(PathBuf::from(folder.trim()))
}

/// Returns the folders in which distributions put the server's programs, the newest version first.
fn usual_folders() -> Vec<PathBuf> {
    // A folder, the start of a version's name there, and the folder of the programs below that.
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
                // `postgresql@17` and `postgresql-17` are of version 17.
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
