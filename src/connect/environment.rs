//! [`Environment`]: libpq's variables.

use crate::failure::with_hint;
use anyhow::Context as _;
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;
use tokio_postgres::Config;
use tokio_postgres::config::TargetSessionAttrs;

/// Where libpq looks for a socket when no host is named: Debian's and the source's default.
const SOCKET_FOLDERS: [&str; 3] = ["/var/run/postgresql", "/run/postgresql", "/tmp"];

/// The variables of a process, or those that a test gives.
#[derive(Debug, Clone, Default)]
pub struct Environment(HashMap<String, String>);

impl Environment {
    /// The variables of this process that are text.
    pub fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(name, value)| {
                    Some((name.into_string().ok()?, value.into_string().ok()?))
                })
                .collect(),
        )
    }

    /// These variables alone.
    pub fn of(variables: &[(&str, &str)]) -> Self {
        Self(
            variables
                .iter()
                .map(|(name, value)| ((*name).to_string(), (*value).to_string()))
                .collect(),
        )
    }

    /// A variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).filter(|value| !value.is_empty()).cloned()
    }

    /// Fills in what a URL left out.
    pub(super) fn fill(&self, config: &mut Config) -> anyhow::Result<()> {
        if self.get("PGSERVICE").is_some() {
            // To go on would be to connect somewhere else than its owner meant.
            return Err(with_hint(
                anyhow::anyhow!("PGSERVICE is set, and pgic does not read service files"),
                "unset PGSERVICE and name the server with --database-url, DATABASE_URL or PGHOST",
            ));
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            self.fill_hosts(config)?;
        }
        if config.get_ports().is_empty()
            && let Some(ports) = self.get("PGPORT")
        {
            for port in ports.split(',') {
                config.port(
                    port.trim()
                        .parse()
                        .context("PGPORT is not a port, or a list of them")?,
                );
            }
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
            config.connect_timeout(if seconds == 0 {
                Duration::from_secs(86_400)
            } else {
                Duration::from_secs(seconds)
            });
        }
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

    fn fill_hosts(&self, config: &mut Config) -> anyhow::Result<()> {
        if let Some(addresses) = self.get("PGHOSTADDR") {
            for address in addresses.split(',') {
                config.hostaddr(
                    address
                        .trim()
                        .parse()
                        .context("PGHOSTADDR is not an address, or a list of them")?,
                );
            }
        }
        match self.get("PGHOST") {
            Some(hosts) => {
                for host in hosts.split(',') {
                    config.host(host.trim());
                }
            }
            None if config.get_hostaddrs().is_empty() => {
                let has_socket = |folder: &&&str| {
                    let port = self.get("PGPORT").unwrap_or_else(|| "5432".to_string());
                    Path::new(folder).join(format!(".s.PGSQL.{port}")).exists()
                };
                config.host(
                    SOCKET_FOLDERS
                        .iter()
                        .find(has_socket)
                        .copied()
                        .unwrap_or("localhost"),
                );
            }
            None => {}
        }
        Ok(())
    }
}

fn operating_system_user() -> Option<String> {
    let output = std::process::Command::new("id").arg("-un").output().ok()?;
    let name = String::from_utf8(output.stdout).ok()?.trim().to_string();
    (!name.is_empty()).then_some(name)
}
