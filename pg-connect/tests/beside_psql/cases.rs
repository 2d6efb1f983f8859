//! [`Case`]: settings of a connection, from a line of a file in `cases/`.
//!
//! ```text
//! name | conn postgresql://u@localhost/app | env PGPORT=5433 | file .pgpass 600 text | want no
//! ```
//!
//! | part | meaning |
//! |---|---|
//! | `conn TEXT` | the connection string |
//! | `usual` | `PGHOST`, `PGPORT`, `PGUSER` and `PGDATABASE` of the server without TLS |
//! | `env NAME=VALUE`, `unset NAME` | a variable; `~` is the home folder of the case |
//! | `file NAME MODE TEXT` | a file in the home folder of the case |
//! | `link NAME TARGET` | a symbolic link there |
//! | `server NAME` | the certificate that the server with TLS shows |
//! | `name` | the name of the application is compared, too |
//! | `want RESULT` | the result, where the psql at hand is too old to know, or we differ by design |
//! | `why TEXT` | the reason for that |
//!
//! `\n`, `\r`, `\t`, `\|` and `\\` stand for the characters that the form has no place for.
//! `{port}` and the like are filled in by [`World::fill`](crate::world::World::fill).

/// Settings of a connection.
#[derive(Debug, Clone, Default)]
pub struct Case {
    pub name: String,
    pub conninfo: Option<String>,
    pub is_usual: bool,
    /// Names and values; `None` takes a variable away.
    pub variables: Vec<(String, Option<String>)>,
    pub files: Vec<File>,
    pub links: Vec<(String, String)>,
    pub certificate: Option<String>,
    pub compares_name: bool,
    /// `None` if psql says what the result should be.
    pub want: Option<Want>,
}

/// A file in the home folder of a case.
#[derive(Debug, Clone)]
pub struct File {
    pub name: String,
    pub mode: u32,
    pub text: String,
}

/// The result that a case should have, whatever psql does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Want {
    /// No session.
    No,
    /// A session, wherever.
    Up,
    /// Either of both.
    Either,
    /// This session.
    Session(String),
}

/// Reads the cases of a file.
pub fn read(text: &str) -> Vec<Case> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(case)
        .collect()
}

fn case(line: &str) -> Case {
    let mut parts = line.split(" | ");
    let mut case = Case {
        name: parts.next().unwrap().to_string(),
        ..Case::default()
    };
    for part in parts {
        let (kind, rest) = part.split_once(' ').unwrap_or((part, ""));
        match kind {
            "conn" => case.conninfo = Some(unescape(rest)),
            "usual" => case.is_usual = true,
            "env" => {
                let (name, value) = rest.split_once('=').unwrap();
                case.variables
                    .push((name.to_string(), Some(unescape(value))));
            }
            "unset" => case.variables.push((rest.to_string(), None)),
            "file" => {
                let mut words = rest.splitn(3, ' ');
                case.files.push(File {
                    name: words.next().unwrap().to_string(),
                    mode: u32::from_str_radix(words.next().unwrap(), 8).unwrap(),
                    text: unescape(words.next().unwrap_or_default()),
                });
            }
            "link" => {
                let (name, target) = rest.split_once(' ').unwrap();
                case.links.push((name.to_string(), target.to_string()));
            }
            "server" => case.certificate = Some(rest.to_string()),
            "name" => case.compares_name = true,
            "want" => {
                case.want = Some(match rest {
                    "no" => Want::No,
                    "up" => Want::Up,
                    "either" => Want::Either,
                    session => Want::Session(session.to_string()),
                });
            }
            "why" => {}
            kind => panic!("a case has no part {kind}: {line}"),
        }
    }
    case
}

fn unescape(text: &str) -> String {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => plain.push(match characters.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some(c @ ('\\' | '|')) => c,
                c => panic!("{c:?} is not escaped in {text}"),
            }),
            c => plain.push(c),
        }
    }
    plain
}
