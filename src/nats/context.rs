//! [`NatsContext`]: servers and credentials as the tool `nats` keeps them.
//!
//! ```text
//! ~/.config/nats/context.txt           the name of the selected context
//! ~/.config/nats/context/<name>.json   {"url": "nats://n1,n2", "creds": "/etc/nats/node.creds", …}
//! ```
//!
//! The folder is in `XDG_CONFIG_HOME` if that is set. `NATS_CONTEXT` names another context than the
//! selected one.

use crate::connect::Environment;
use crate::failure::with_hint;
use anyhow::{Context as _, anyhow};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::io;
use std::path::PathBuf;

/// A context of the tool `nats`. A text that is empty is not set.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct NatsContext {
    pub(super) url: String,
    pub(super) token: String,
    pub(super) user: String,
    pub(super) password: String,
    pub(super) creds: String,
    pub(super) nkey: String,
    pub(super) cert: String,
    pub(super) key: String,
    pub(super) ca: String,
    /// The subjects on which answers come begin with this.
    pub(super) inbox_prefix: String,
    /// What else is set.
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// The members that change nothing for pgic.
const WITHOUT_EFFECT: [&str; 2] = ["description", "color_scheme"];

impl NatsContext {
    /// Reads the context that `NATS_CONTEXT` names, or the selected one. Returns `None` if neither is
    /// there.
    ///
    /// # Errors
    /// If the context cannot be read, or sets what pgic does not know. No value of the file is
    /// repeated: one may be a password.
    pub(super) fn chosen(environment: &Environment) -> anyhow::Result<Option<Self>> {
        let Some(folder) = folder(environment) else {
            return Ok(None);
        };
        let name = match environment.get("NATS_CONTEXT") {
            Some(name) => name.to_string(),
            None => match std::fs::read_to_string(folder.join("context.txt")) {
                Ok(name) => name.trim().to_string(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error).context("read the name of the nats context"),
            },
        };
        if name.is_empty() {
            return Ok(None);
        }
        let hint = "nats context ls lists the contexts";
        let reading = format!("read the nats context \"{}\"", name.escape_debug());
        let is_name = !name.contains(['/', '\\']) && !name.starts_with('.');
        if !is_name {
            let error = anyhow!("that is no name of a context").context(reading);
            return Err(with_hint(error, hint));
        }
        let file = folder.join("context").join(format!("{name}.json"));
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("read {}", file.display()))
            .with_context(|| reading.clone());
        let text = text.map_err(|error| with_hint(error, hint))?;
        Self::parse(&text).context(reading).map(Some)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        // The error of serde may repeat a value.
        let context: Self = serde_json::from_str(text)
            .map_err(|error| anyhow!("line {} is not what a context has", error.line()))?;
        let is_set = |value: &Value| {
            !matches!(value, Value::Null | Value::Bool(false)) && value.as_str() != Some("")
        };
        let unknown = context
            .others
            .iter()
            .find(|(name, value)| is_set(value) && !WITHOUT_EFFECT.contains(&name.as_str()));
        if let Some((name, _)) = unknown {
            return Err(with_hint(
                anyhow!("it sets {}, which pgic does not know", name.escape_debug()),
                "name the servers by NATS_URL, and credentials by NATS_CREDS or NATS_NKEY",
            ));
        }
        Ok(context)
    }
}

/// Returns the folder of the tool `nats`; `None` if nobody's home is known.
fn folder(environment: &Environment) -> Option<PathBuf> {
    let config = match environment
        .get("XDG_CONFIG_HOME")
        .filter(|path| !path.is_empty())
    {
        Some(config) => PathBuf::from(config),
        None => PathBuf::from(environment.get("HOME")?).join(".config"),
    };
    Some(config.join("nats"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_has_servers_and_credentials() {
        let text = r#"{"description": "d", "url": "nats://n1", "token": "", "user": "u",
            "password": "p", "creds": "", "nsc": "", "jetstream_domain": "", "tls_first": false}"#;
        let context = NatsContext::parse(text).expect("a context");
        assert_eq!(
            (&*context.url, &*context.user, &*context.password),
            ("nats://n1", "u", "p")
        );
    }

    #[test]
    fn what_is_not_known_is_refused_by_its_name_alone() {
        for (text, expected) in [
            (r#"{"url": "n1", "password": ["secret"]}"#, "line 1"),
            (r#"{"url": "n1", "nsc": "nsc://secret"}"#, "nsc"),
            (
                r#"{"url": "n1", "jetstream_domain": "secret"}"#,
                "jetstream_domain",
            ),
            ("secret", "line 1"),
        ] {
            let error = NatsContext::parse(text).err().expect(text);
            let error = format!("{error:#}");
            assert!(
                error.contains(expected) && !error.contains("secret"),
                "{error}"
            );
        }
    }
}
