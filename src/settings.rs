//! [`Settings`]: the defaults of options, and the tables that must be announced, from `pgic.toml`
//! and from variables such as `PGIC_OUTPUT`.
//!
//! An option on the command line wins over its variable, and the variable over the file.
//!
//! The file is found upwards from the working directory, so it may be that of a folder which
//! somebody else made. Hence its limits: 1. It runs no command. 2. It connects to a server only if
//! the connection is asked for on the command line, or the file is. 3. If others may write it, it
//! is not read unless named.

mod file;

use crate::cli::{Global, Output};
use crate::connect::Environment;
use crate::failure::{HintExt as _, with_hint};
use crate::render::Format;
use crate::tables::nearest::nearest;
use crate::triggers::condition::AskedCondition;
use crate::triggers::{OptionChanges, check_channel};
use anyhow::{Context as _, anyhow};
use clap::ColorChoice;
use file::{File, TableSection};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The name of the file.
const FILE: &str = "pgic.toml";

/// The defaults that hold for a run of pgic.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The form of answers.
    pub output: Format,
    /// When colour is used.
    pub color: ColorChoice,
    /// Whether times are shown in UTC.
    pub utc: bool,
    /// The channel on which changes are announced where nothing else is said.
    pub channel: Option<String>,
    /// The connection string of the connection that was asked for by name.
    pub url: Option<String>,
    /// The tables that must be announced, in the order of their names.
    pub tables: Vec<WantedTable>,
    /// The file that was read; `None` if there is none.
    pub file: Option<PathBuf>,
    /// Sentences that the user should read.
    pub notices: Vec<String>,
}

/// A table that the file wants to be announced.
#[derive(Debug, Clone)]
pub struct WantedTable {
    /// The name as it is written: `users`, or `app.users`.
    pub name: String,
    /// The options of the triggers.
    pub options: OptionChanges,
}

impl Settings {
    /// Reads the options, the variables and the file.
    ///
    /// # Errors
    /// If the file cannot be read, or has something that is not understood.
    pub fn load(global: &Global, environment: &Environment) -> anyhow::Result<Self> {
        let mut settings = Self::default();
        let named = global.config.clone();
        let named = named.or_else(|| environment.get("PGIC_CONFIG").map(PathBuf::from));
        let is_named = named.is_some();
        let path = match named {
            Some(path) => Some(path),
            None => settings.found()?,
        };
        let file = match &path {
            Some(path) => read(path)?,
            None => File::default(),
        };
        settings.file = path;
        settings.output = match (
            global.output.map(Output::format),
            environment.get("PGIC_OUTPUT"),
        ) {
            (Some(format), _) => format,
            (None, Some(word)) => choice("PGIC_OUTPUT", word)?,
            (None, None) => match &file.output {
                Some(word) => choice("output", word).with_context(|| settings.reading())?,
                None => Format::default(),
            },
        };
        settings.color = match (global.color, environment.get("PGIC_COLOR")) {
            (Some(color), _) => color,
            (None, Some(word)) => choice("PGIC_COLOR", word)?,
            (None, None) => match &file.color {
                Some(word) => choice("color", word).with_context(|| settings.reading())?,
                None => ColorChoice::Auto,
            },
        };
        settings.utc = global.utc || file.utc;
        settings.channel = environment
            .get("PGIC_CHANNEL")
            .map(str::to_string)
            .or_else(|| file.channel.clone());
        if let Some(channel) = &settings.channel {
            check_channel(channel).context("read the channel of the settings")?;
        }
        // A file that was found may be that of a folder which somebody else made. A variable that
        // is always set must not lead to a server of theirs, with a password of ours.
        let by_variable = environment
            .get("PGIC_CONNECTION")
            .filter(|_| global.database_url.is_none() && is_named);
        if let Some(name) = global.connection.as_deref().or(by_variable) {
            settings.url = Some(settings.url_of(&file, name)?);
        } else if environment.get("PGIC_CONNECTION").is_some() && global.database_url.is_none() {
            settings.notices.push(
                "PGIC_CONNECTION counts only with PGIC_CONFIG or --config: a file that was found \
                may be somebody else's; name the connection with --connection"
                    .to_string(),
            );
        }
        for (name, section) in &file.tables {
            settings.tables.push(WantedTable {
                name: name.clone(),
                options: settings
                    .options(section)
                    .with_context(|| settings.reading())?,
            });
        }
        Ok(settings)
    }

    /// Returns the first file upwards from the working directory. One that others may have written
    /// is left out, with a notice.
    fn found(&mut self) -> anyhow::Result<Option<PathBuf>> {
        let folder = std::env::current_dir().context("find the working directory")?;
        let path = folder
            .ancestors()
            .map(|folder| folder.join(FILE))
            .find(|path| path.is_file());
        let Some(path) = path else {
            return Ok(None);
        };
        if is_of_others(&path)? {
            self.notices.push(format!(
                "{} is not read, since another user may have written it: give --config to read it",
                path.display()
            ));
            return Ok(None);
        }
        Ok(Some(path))
    }

    /// Returns the connection string of a connection with a name.
    fn url_of(&self, file: &File, name: &str) -> anyhow::Result<String> {
        if let Some(section) = file.connections.get(name) {
            if section.url.trim().is_empty() {
                return Err(anyhow!("the connection {name} has an empty url"))
                    .with_context(|| self.reading());
            }
            return Ok(section.url.clone());
        }
        let names: Vec<&str> = file.connections.keys().map(String::as_str).collect();
        let hint = match (&self.file, nearest(name, names.iter().copied())) {
            (None, _) => format!("connections stand in {FILE}, and there is none: see pgic help"),
            (Some(_), Some(near)) => format!("{near} may be meant"),
            (Some(path), None) if names.is_empty() => {
                format!("{} names none", path.display())
            }
            (Some(path), None) => format!("{} names {}", path.display(), names.join(", ")),
        };
        // A connection string in its place may hold a password.
        let name = if name.contains(['@', '=', ':', '/']) {
            "of this name"
        } else {
            name
        };
        Err(with_hint(anyhow!("there is no connection {name}"), hint))
    }

    /// Returns the options of a table's triggers. What the file does not name is as by default.
    fn options(&self, section: &TableSection) -> anyhow::Result<OptionChanges> {
        let channel = section.channel.clone().or_else(|| self.channel.clone());
        if let Some(channel) = &channel {
            check_channel(channel)?;
        }
        Ok(OptionChanges {
            // The channel of all tables is where those of the tables' own begin.
            default_channel: channel.clone().filter(|_| section.channel_per_table),
            channel: channel.filter(|_| !section.channel_per_table),
            channel_per_table: section.channel_per_table,
            columns: section.columns.clone(),
            exclude_columns: section.exclude_columns.clone(),
            // A file says all that is wanted: without a condition, all rows.
            condition: Some(match &section.condition {
                Some(text) => AskedCondition::written(text),
                None => AskedCondition::AllRows,
            }),
            bulk: section.bulk,
            rows: section.rows,
            no_data: section.no_data,
            on_change: section.on_change,
            always: section.always,
            no_truncate: section.no_truncate,
            long_numbers_as_text: section.long_numbers_as_text,
            no_guard: section.no_guard,
            generic: section.generic,
            defaults: true,
            ..OptionChanges::default()
        })
    }

    /// Says what was tried when the file was read.
    fn reading(&self) -> String {
        match &self.file {
            Some(path) => format!("read {}", path.display()),
            None => "read the settings".to_string(),
        }
    }
}

/// Reads a file.
fn read(path: &Path) -> anyhow::Result<File> {
    let shown = path.display().to_string();
    let reading = || {
        // Somebody may have given a connection string in its place.
        if shown.contains(['@', '=']) {
            "read the file of settings".to_string()
        } else {
            format!("read {shown}")
        }
    };
    let text = std::fs::read_to_string(path).with_context(reading)?;
    File::parse(&text)
        .with_context(reading)
        .hint("pgic help config has all that the file may hold")
}

/// Tells whether somebody else than this user and root may have written a file.
fn is_of_others(path: &Path) -> anyhow::Result<bool> {
    let reading = || format!("read {}", path.display());
    let own = [0, rustix::process::geteuid().as_raw()];
    let group = rustix::process::getegid().as_raw();
    // Of a link both count: whoever may change the link decides what is read.
    for metadata in [
        std::fs::symlink_metadata(path).with_context(reading)?,
        std::fs::metadata(path).with_context(reading)?,
    ] {
        let by_group = metadata.mode() & 0o020 != 0 && metadata.gid() != group;
        let by_all = metadata.mode() & 0o002 != 0 && !metadata.is_symlink();
        if !own.contains(&metadata.uid()) || (by_group && !metadata.is_symlink()) || by_all {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads one of the words of an option.
fn choice<T: clap::ValueEnum>(name: &str, word: &str) -> anyhow::Result<T> {
    T::from_str(word, false).map_err(|_| {
        let words = T::value_variants().iter().filter_map(T::to_possible_value);
        let words: Vec<String> = words.map(|word| word.get_name().to_string()).collect();
        anyhow!("{name} must be one of {}", words.join(", "))
    })
}

#[cfg(test)]
mod tests;
