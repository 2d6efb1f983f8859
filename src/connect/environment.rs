//! [`Environment`]: libpq's variables, such as `PGHOST`, and the values they give to a connection.

use crate::failure::with_hint;
use anyhow::Context as _;
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;
use tokio_postgres::Config;
use tokio_postgres::config::TargetSessionAttrs;

/// The folders of the server's socket if no host is named: the defaults of Debian and of
/// PostgreSQL's source.
const SOCKET_FOLDERS: [&str; 3] = ["/var/run/postgresql", "/run/postgresql", "/tmp"];

/// The variables of a process, or those that a test gives.
#[derive(Debug, Clone, Default)]
pub struct Environment(HashMap<String, String>);

impl Environment {
    /// Returns the variables of this process whose values are UTF-8.
    pub fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(name, value)| {
                    Some((name.into_string().ok()?, value.into_string().ok()?))
                })
                .collect(),
        )
    }

    /// Returns an environment of these variables alone, for tests.
    pub fn of(variables: &[(&str, &str)]) -> Self {
        Self(
            variables
                .iter()
                .map(|(name, value)| ((*name).to_string(), (*value).to_string()))
                .collect(),
        )
    }

    /// Returns the value of a variable; `None` if the variable is not set, or empty.
    pub fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).filter(|value| !value.is_empty()).cloned()
    }

    /// Fills in the parameters that the URL left out.
    ///
    /// # Errors
    /// If the value of a variable is not understood, or no user is named anywhere.
    pub(super) fn fill(&self, config: &mut Config) -> anyhow::Result<()> {
        if self.get("PGSERVICE").is_some() {
            // To go on without the service file would connect to another server than was meant.
            return Err(with_hint(
                anyhow::anyhow!("PGSERVICE is set, and pgic does not read service files"),
                "unset PGSERVICE and name the server with --database-url, DATABASE_URL or PGHOST",
            ));
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            self.fill_hosts(config)?;
        }
        if config.get_ports().is_empty() {
            self.fill_ports(config)?;
        }
        if config.get_user().is_none() {
            let user = self
                .get("PGUSER")
                .or_else(|| self.get("USER"))
                .or_else(|| self.get("LOGNAME"))
                .or_else(operating_system_user);
            config.user(user.context("no user is named: set PGUSER")?);
        }
        if config.get_dbname().is_none() {
            let database = self
                .get("PGDATABASE")
                .or_else(|| config.get_user().map(str::to_string));
            config.dbname(database.unwrap_or_default());
        }
        if config.get_password().is_none()
            && let Some(password) = self.get("PGPASSWORD")
        {
            config.password(password);
        }
        if config.get_application_name().is_none()
            && let Some(name) = self.get("PGAPPNAME")
        {
            config.application_name(name);
        }
        if config.get_options().is_none()
            && let Some(options) = self.get("PGOPTIONS")
        {
            config.options(options);
        }
        if config.get_connect_timeout().is_none()
            && let Some(seconds) = self.get("PGCONNECT_TIMEOUT")
        {
            let seconds: u64 = seconds
                .parse()
                .context("PGCONNECT_TIMEOUT is not a number of seconds")?;
            // For libpq, 0 is no bound. A timeout that is not set gets our default later, so a day
            // stands for no bound.
            config.connect_timeout(Duration::from_secs(match seconds {
                0 => 86_400,
                seconds => seconds,
            }));
        }
        // A Config does not tell `any` from no value, so this variable wins over the URL.
        if let Some(attributes) = self.get("PGTARGETSESSIONATTRS") {
            config.target_session_attrs(match attributes.as_str() {
                "any" => TargetSessionAttrs::Any,
                "read-write" => TargetSessionAttrs::ReadWrite,
                "read-only" => TargetSessionAttrs::ReadOnly,
                _ => anyhow::bail!("PGTARGETSESSIONATTRS is none of any, read-write, read-only"),
            });
        }
        Ok(())
    }

    /// Fills in `PGPORT`: a port for each host, or one for all.
    fn fill_ports(&self, config: &mut Config) -> anyhow::Result<()> {
        let Some(ports) = self.get("PGPORT") else {
            return Ok(());
        };
        for port in ports.split(',') {
            let port = port
                .trim()
                .parse()
                .context("PGPORT is not a port, or a list of them")?;
            config.port(port);
        }
        Ok(())
    }

    /// Fills in `PGHOSTADDR` and `PGHOST`; without either, the local socket, else `localhost`.
    fn fill_hosts(&self, config: &mut Config) -> anyhow::Result<()> {
        if let Some(addresses) = self.get("PGHOSTADDR") {
            for address in addresses.split(',') {
                let address = address
                    .trim()
                    .parse()
                    .context("PGHOSTADDR is not an address, or a list of them")?;
                config.hostaddr(address);
            }
        }
        match self.get("PGHOST") {
            Some(hosts) => {
                for host in hosts.split(',') {
                    config.host(host.trim());
                }
            }
            None if config.get_hostaddrs().is_empty() => {
                let port = self.get("PGPORT").unwrap_or_else(|| "5432".to_string());
                let socket = format!(".s.PGSQL.{port}");
                let folder = SOCKET_FOLDERS
                    .into_iter()
                    .find(|folder| Path::new(folder).join(&socket).exists());
                config.host(folder.unwrap_or("localhost"));
            }
            None => {}
        }
        Ok(())
    }
}

/// Returns the name of the user that this process runs as, by the program `id`.
fn operating_system_user() -> Option<String> {
    let output = std::process::Command::new("id").arg("-un").output().ok()?;
    let name = String::from_utf8(output.stdout).ok()?.trim().to_string();
    (!name.is_empty()).then_some(name)
}
