//! [`NatsLog`]: a log as two streams of NATS JetStream.
//!
//! ```text
//! pgic.shop.log.>   ─→ stream PGIC_shop ─ republished ─→ pgic.shop.live.>   entries
//! pgic.shop.snap.>  ─→ stream PGICSNAP_shop                                 snapshots
//! pgic.shop.ask     ─→ the relay that writes, and back to the inbox         fences
//! ```
//!
//! Nodes listen on the republished subjects, and read single messages by their numbers. No node
//! has a consumer in the server, so a thousand nodes cost the server nothing but the messages.
//!
//! A message is asked for by a *direct get* first, which the stream itself answers. Servers of
//! version 2.9.10 end with a segmentation fault if anything else is asked of a stream that is just
//! being made. The stream's leader is asked behind that, since another server may lag behind.

use super::error::LogError;
use super::follow::random;
use super::names::LogName;
use super::question::{Question, REACHED, RelayReport};
use super::relay::RelayError;
use super::source::{LogDatabase, LogSource};
use crate::log::{Body, Entry, Position, Sequence, TableName};
use crate::transaction::TransactionToken;
use async_nats::jetstream::context::{Context, ContextBuilder, PublishAckFuture, PublishError};
use async_nats::jetstream::stream::{
    self, DirectGetErrorKind, DiscardPolicy, RawMessageErrorKind, Republish, StorageType, Stream,
};
use async_nats::{Client, HeaderMap, Request, Subscriber, header, jetstream};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The description of the stream of entries, without the database.
pub(super) const ENTRIES: &str = "Changes of PostgreSQL tables, written by pgic relay";

/// The error code of JetStream for a stream that is not there.
const STREAM_NOT_FOUND: u64 = 10_059;

/// How long NATS may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long whoever writes the log may take to answer that a transaction is reached. That relay
/// answers before, and is asked again.
const ANSWER_PATIENCE: Duration = Duration::from_secs(8);

/// The wait before the answer to a comparison is asked for again. The comparison may take longer.
const VERIFY_PATIENCE: Duration = Duration::from_secs(10);

/// The wait before a question is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// The streams of a log, for the relay that makes them.
#[derive(Debug, Clone, Copy)]
pub struct LogStorage {
    /// Whether entries are kept in memory alone.
    pub in_memory: bool,
    /// The number of NATS servers that keep each entry.
    pub replicas: usize,
    /// The most bytes of entries. The oldest are dropped before that.
    pub max_bytes: i64,
}

impl Default for LogStorage {
    fn default() -> Self {
        Self {
            in_memory: false,
            replicas: 1,
            // A server reserves as much of its disk.
            max_bytes: 1 << 30,
        }
    }
}

/// A message of the log.
#[derive(Debug, Clone)]
pub(super) struct StoredMessage {
    pub(super) sequence: Sequence,
    pub(super) payload: Bytes,
}

impl StoredMessage {
    /// Reads the entry; `None` if the message is none that is known here.
    pub(super) fn entry(&self) -> Option<Entry> {
        let text = std::str::from_utf8(&self.payload).ok()?;
        Entry::from_json(text).ok()
    }
}

/// A log on a NATS server.
#[derive(Debug, Clone)]
pub struct NatsLog {
    name: LogName,
    client: Client,
    context: Context,
    entries: Known,
    snapshots: Known,
    /// The database whose tables the log has; `None` if that is not known, as to a node.
    source: Option<LogSource>,
}

/// A stream, and whether it was seen.
#[derive(Debug, Clone)]
struct Known {
    context: Context,
    stream: Stream<()>,
    name: String,
    is_seen: Arc<AtomicBool>,
}

impl Known {
    /// Returns whether the stream is there.
    async fn is_there(&self) -> Result<bool, LogError> {
        if self.is_seen.load(Ordering::Relaxed) {
            return Ok(true);
        }
        match self.context.get_stream(&self.name).await {
            Ok(_) => {
                self.is_seen.store(true, Ordering::Relaxed);
                Ok(true)
            }
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(self.tried("look at")(error)),
        }
    }

    /// Returns a function that adds what was tried to an error. The stream may be gone.
    fn tried<E>(&self, what: &str) -> impl FnOnce(E) -> LogError
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.is_seen.store(false, Ordering::Relaxed);
        LogError::tried(format!("{what} the stream {}", self.name))
    }

    /// Returns the last message on these subjects; `None` if there is none, or no stream.
    async fn last(&self, subject: &str) -> Result<Option<StoredMessage>, LogError> {
        if !self.is_there().await? {
            return Ok(None);
        }
        let direct = self.stream.direct_get_last_for_subject(subject).await;
        if let Err(error) = direct
            && !matches!(error.kind(), DirectGetErrorKind::NotFound)
        {
            return Err(self.tried(&format!("read {subject} in"))(error));
        }
        match self.stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(message.into())),
            Err(error) if is_unknown(&error) => Ok(None),
            Err(error) => Err(self.tried(&format!("read {subject} in"))(error)),
        }
    }

    /// Returns the message with this number; `None` if there is none.
    async fn message(&self, at: Sequence) -> Result<Option<StoredMessage>, LogError> {
        let what = || format!("read the message {} of", at.0);
        match self.stream.direct_get(at.0).await {
            Ok(message) => return Ok(Some(message.into())),
            // A server that lags behind has not got the message yet. The leader knows.
            Err(error) if matches!(error.kind(), DirectGetErrorKind::NotFound) => {}
            Err(error) => return Err(self.tried(&what())(error)),
        }
        match self.stream.get_raw_message(at.0).await {
            Ok(message) => Ok(Some(message.into())),
            Err(error) if is_unknown(&error) => Ok(None),
            Err(error) => Err(self.tried(&what())(error)),
        }
    }
}

impl From<jetstream::message::StreamMessage> for StoredMessage {
    fn from(message: jetstream::message::StreamMessage) -> Self {
        Self {
            sequence: Sequence(message.sequence),
            payload: message.payload,
        }
    }
}

impl NatsLog {
    /// Names a log on a server. Asks the server for nothing.
    ///
    /// # Errors
    /// If the name is none.
    pub async fn new(client: Client, name: LogName) -> Result<Self, LogError> {
        let context = ContextBuilder::new()
            .timeout(PATIENCE)
            .build(client.clone());
        let stream = async |name: String| {
            let stream = context.get_stream_no_info(&name).await;
            Ok::<_, LogError>(Known {
                context: context.clone(),
                stream: stream.map_err(LogError::tried(format!("use the stream {name}")))?,
                name,
                is_seen: Arc::default(),
            })
        };
        Ok(Self {
            entries: stream(name.stream()).await?,
            snapshots: stream(name.snapshot_stream()).await?,
            name,
            client,
            context,
            source: None,
        })
    }

    /// Returns the log as one of this database's tables; `None` if that is not known.
    pub(super) fn of(mut self, source: Option<LogSource>) -> Self {
        self.source = source;
        self
    }

    /// Returns the database whose tables the log has, if that is known here.
    pub(super) fn source(&self) -> Option<&LogSource> {
        self.source.as_ref()
    }

    /// Returns the log's name.
    pub fn name(&self) -> &LogName {
        &self.name
    }

    /// Returns the connection.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns whether there is such a log on the server.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub async fn is_there(&self) -> Result<bool, LogError> {
        self.entries.is_there().await
    }

    /// Checks that the log has the tables of the database that a session is in. Where the role may
    /// not know that, or the stream was made by hand, nothing is compared.
    ///
    /// # Errors
    /// [`LogError::OfAnotherDatabase`]; or if NATS or the server does not answer.
    pub async fn check_database(&self, session: &tokio_postgres::Client) -> Result<(), RelayError> {
        let Some(own) = LogSource::seen_by(session).await? else {
            return Ok(());
        };
        let stream = self.name.stream();
        let found = self.context.get_stream(&stream).await;
        let found = found.map_err(LogError::tried(format!("look at the stream {stream}")))?;
        let description = found.cached_info().config.description.clone();
        let description = description.unwrap_or_default();
        if own.is_another(&description) {
            let own = LogSource::described(Some(&own), ENTRIES);
            return Err(RelayError::Log(LogError::OfAnotherDatabase {
                stream,
                description,
                own,
            }));
        }
        Ok(())
    }

    /// Returns how often the connection was made: a change of the number means that messages may
    /// be lost.
    pub(super) fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// Makes the streams that are missing. A stream that is there is left as it is. Returns what is
    /// known of the database whose tables the log has.
    ///
    /// # Errors
    /// If a stream of that name is not a log's, the log is one of another database, or NATS refuses.
    pub async fn set_up(&self, storage: LogStorage) -> Result<LogDatabase, LogError> {
        let LogStorage {
            in_memory,
            replicas,
            max_bytes,
        } = storage;
        let kind = if in_memory {
            StorageType::Memory
        } else {
            StorageType::File
        };
        let name = &self.name;
        let common = stream::Config {
            storage: kind,
            num_replicas: replicas,
            allow_direct: true,
            ..stream::Config::default()
        };
        let entries = stream::Config {
            name: name.stream(),
            description: Some(LogSource::described(self.source.as_ref(), ENTRIES)),
            subjects: vec![name.entries()],
            discard: DiscardPolicy::Old,
            max_bytes,
            republish: Some(Republish {
                source: name.entries(),
                destination: name.live(),
                headers_only: false,
            }),
            ..common.clone()
        };
        let snapshots = stream::Config {
            name: name.snapshot_stream(),
            description: Some("Snapshots of a log, written by pgic relay".to_string()),
            subjects: vec![name.snapshots()],
            max_messages_per_subject: 1,
            ..common
        };
        let own = entries.description.clone().unwrap_or_default();
        let stream = entries.name.clone();
        let found = self.make(entries).await?;
        let is_new = found.is_none();
        let description = found
            .and_then(|found| found.description)
            .unwrap_or_default();
        let source = self.source.as_ref();
        if source.is_some_and(|source| source.is_another(&description)) {
            return Err(LogError::OfAnotherDatabase {
                stream,
                description,
                own,
            });
        }
        self.make(snapshots).await?;
        Ok(match source {
            None => LogDatabase::Unknown,
            Some(_) if is_new || LogSource::stands_in(&description) => LogDatabase::Same,
            Some(_) => LogDatabase::Unsaid { stream, own },
        })
    }

    /// Makes a stream if it is missing. Returns the settings of one that is there.
    async fn make(&self, wanted: stream::Config) -> Result<Option<stream::Config>, LogError> {
        let stream = wanted.name.clone();
        let tried = format!("look at the stream {stream}");
        let found = match self.context.get_stream(&stream).await {
            Ok(found) => found.cached_info().config.clone(),
            Err(error) if is_missing(&error) => {
                let Err(error) = self.context.create_stream(wanted.clone()).await else {
                    return Ok(None);
                };
                // Another relay that begins at the same time may have made it.
                match self.soon(&stream).await {
                    Some(found) => found,
                    None => {
                        return Err(LogError::tried(format!("make the stream {stream}"))(error));
                    }
                }
            }
            Err(error) => return Err(LogError::tried(tried)(error)),
        };
        let foreign = |setting, expected: String| {
            Err(LogError::Foreign {
                stream: stream.clone(),
                setting,
                expected,
            })
        };
        if found.subjects != wanted.subjects {
            return foreign("subjects", wanted.subjects.join(", "));
        }
        let destination = |config: &stream::Config| {
            let republish = config.republish.as_ref();
            republish.map(|republish| republish.destination.clone())
        };
        if destination(&found) != destination(&wanted) {
            return foreign(
                "republish destination",
                destination(&wanted).unwrap_or_default(),
            );
        }
        if !found.allow_direct {
            return foreign("allow_direct", "true".to_string());
        }
        if found.max_messages_per_subject != wanted.max_messages_per_subject
            && wanted.max_messages_per_subject > 0
        {
            return foreign("max_msgs_per_subject", "1".to_string());
        }
        Ok(Some(found))
    }

    /// Returns the settings of a stream that somebody else may just be making; `None` if nobody is.
    async fn soon(&self, stream: &str) -> Option<stream::Config> {
        const TRIES: usize = 10;
        for _ in 0..TRIES {
            if let Ok(found) = self.context.get_stream(stream).await {
                return Some(found.cached_info().config.clone());
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
        None
    }

    /// Listens for the entries that are stored from now on.
    pub(super) async fn listen(&self) -> Result<Subscriber, LogError> {
        let subject = self.name.live();
        let listening = self.client.subscribe(subject.clone()).await;
        listening.map_err(LogError::tried(format!("subscribe to {subject}")))
    }

    /// Reads a republished message; `None` if it is none.
    pub(super) fn republished(message: async_nats::Message) -> Option<StoredMessage> {
        let sequence = message.headers.as_ref()?.get("Nats-Sequence")?;
        Some(StoredMessage {
            sequence: Sequence(sequence.as_str().parse().ok()?),
            payload: message.payload,
        })
    }

    /// Returns the log's last message; `None` if there is none.
    pub(super) async fn last(&self) -> Result<Option<StoredMessage>, LogError> {
        self.entries.last(&self.name.entries()).await
    }

    /// Returns the number of the last message that was ever stored.
    pub(super) async fn last_sequence(&self) -> Result<Sequence, LogError> {
        let info = self.entries.stream.get_info().await;
        let info = info.map_err(|error| self.entries.tried("look at")(error))?;
        Ok(Sequence(info.state.last_sequence))
    }

    /// Returns the message with this number; `None` if there is none.
    pub(super) async fn message(&self, at: Sequence) -> Result<Option<StoredMessage>, LogError> {
        self.entries.message(at).await
    }

    /// Reads the messages from `from` to `to`, in order. A message that is not there is left out.
    pub(super) fn range(
        &self,
        from: Sequence,
        to: Sequence,
    ) -> impl futures_util::Stream<Item = Result<StoredMessage, LogError>> + Send + 'static {
        /// The messages that are asked for before the first has come. Each takes a round trip.
        const TOGETHER: usize = 64;
        let log = self.clone();
        futures_util::stream::iter(from.0..=to.0)
            .map(move |at| {
                let log = log.clone();
                async move { log.message(Sequence(at)).await }
            })
            .buffered(TOGETHER)
            .try_filter_map(|message| std::future::ready(Ok(message)))
    }

    /// Appends an entry. NATS stores it only if the log ends as `expected` says. Entries are stored
    /// in the order of the calls.
    pub(super) async fn append(
        &self,
        entry: &Entry,
        expected: Expected,
    ) -> Result<PublishAckFuture, AppendError> {
        let json = entry.to_json().map_err(AppendError::Entry)?;
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_MESSAGE_ID, entry.position.to_string());
        headers.insert(header::NATS_EXPECTED_STREAM, self.name.stream());
        match expected {
            Expected::Entry(position) => {
                headers.insert(header::NATS_EXPECTED_LAST_MESSAGE_ID, position.to_string());
            }
            Expected::Sequence(Sequence(number)) => {
                headers.insert(header::NATS_EXPECTED_LAST_SEQUENCE, number.to_string());
            }
        }
        let subject = match &entry.body {
            Body::Rows(changes) => self.name.rows(&changes.table),
            Body::Part(part) => self.name.rows(&part.table),
            Body::Begin { .. } | Body::Proof(_) | Body::Stale { .. } => self.name.control(),
        };
        let appended = self
            .context
            .publish_with_headers(subject, headers, json.into());
        appended.await.map_err(AppendError::Nats)
    }

    /// Asks whoever writes the log for a fence. Returns the position of the proof; `None` if nobody
    /// can prove anything now.
    pub async fn ask(&self, patience: Duration) -> Option<Position> {
        let answer = self.request(&Question::Fence, patience).await?;
        std::str::from_utf8(&answer).ok()?.parse().ok()
    }

    /// Waits until everything that a transaction has committed is in the caches of whoever writes
    /// the log. Without end if nobody does.
    pub(crate) async fn until_reached(&self, transaction: TransactionToken) {
        let question = Question::Transaction(transaction);
        loop {
            match self.request(&question, ANSWER_PATIENCE).await {
                Some(answer) if *answer == *REACHED => return,
                _ => tokio::time::sleep(ASK_AGAIN).await,
            }
        }
    }

    /// Asks whoever writes the log to compare the cache of a table with the table. Without end if
    /// nobody does.
    pub(crate) async fn verify(&self, table: &TableName) -> RelayReport {
        let question = Question::Verify {
            table: table.clone(),
            ask: random(),
        };
        loop {
            let answer = self.request(&question, VERIFY_PATIENCE).await;
            let report = answer.map(|answer| serde_json::from_slice::<RelayReport>(&answer));
            match report {
                Some(Ok(report)) if !report.is_busy => return report,
                // Nobody can tell yet, or nobody is there.
                Some(_) | None => tokio::time::sleep(ASK_AGAIN).await,
            }
        }
    }

    /// Asks a question. Returns the answer; `None` if there is none in time.
    async fn request(&self, question: &Question, patience: Duration) -> Option<Bytes> {
        // An inbox of its own: the client remembers a shared one until the answer comes, and it may
        // never come.
        let request = Request::new()
            .inbox(self.client.new_inbox())
            .payload(question.to_json().into())
            .timeout(Some(patience));
        let answer = self.client.send_request(self.name.ask(), request).await;
        Some(answer.ok()?.payload)
    }

    /// Listens for the questions of nodes.
    pub(super) async fn questions(&self) -> Result<Subscriber, LogError> {
        let subject = self.name.ask();
        let listening = self.client.subscribe(subject.clone()).await;
        listening.map_err(LogError::tried(format!("subscribe to {subject}")))
    }

    /// Answers a question of a node.
    pub(super) async fn answer(&self, inbox: async_nats::Subject, answer: Bytes) {
        // Whoever gets no answer asks again.
        if let Err(error) = self.client.publish(inbox, answer).await {
            tracing::debug!(%error, "a question was not answered");
        }
    }

    /// Drops all entries before `first`.
    pub(super) async fn cut(&self, first: Sequence) -> Result<(), LogError> {
        // NATS takes a purge up to the first message for one of all messages.
        if first <= Sequence(1) {
            return Ok(());
        }
        let tried = format!("cut the stream {}", self.name.stream());
        let cut = self.entries.stream.purge().sequence(first.0).await;
        cut.map(|_| ()).map_err(LogError::tried(tried))
    }

    /// Stores a message in the stream of snapshots.
    pub(super) async fn put(&self, subject: String, payload: Bytes) -> Result<(), LogError> {
        let tried = format!("publish on {subject}");
        let stored = async { self.context.publish(subject, payload).await?.await };
        stored.await.map(|_| ()).map_err(LogError::tried(tried))
    }

    /// Returns the list of snapshots; `None` if there is none.
    pub(super) async fn snapshot_list(&self) -> Result<Option<Bytes>, LogError> {
        let found = self.snapshots.last(&self.name.snapshot_list()).await?;
        Ok(found.map(|message| message.payload))
    }

    /// Returns the message of a subject in the stream of snapshots; `None` if there is none.
    pub(super) async fn get(&self, subject: String) -> Result<Option<Bytes>, LogError> {
        let tried = format!("read {subject}");
        let found = self.snapshots.stream.direct_get_last_for_subject(subject);
        match found.await {
            Ok(message) => Ok(Some(message.payload)),
            Err(error) if matches!(error.kind(), DirectGetErrorKind::NotFound) => Ok(None),
            Err(error) => Err(LogError::tried(tried)(error)),
        }
    }

    /// Returns the subjects of the stream of snapshots that `filter` has.
    pub(super) async fn snapshot_subjects(&self, filter: String) -> Result<Vec<String>, LogError> {
        let tried = format!("look at the stream {}", self.name.snapshot_stream());
        let subjects = self.snapshots.stream.info_with_subjects(filter).await;
        let subjects = subjects.map_err(LogError::tried(tried.clone()))?;
        let subjects: Vec<(String, usize)> = subjects
            .try_collect()
            .await
            .map_err(LogError::tried(tried))?;
        Ok(subjects.into_iter().map(|(subject, _)| subject).collect())
    }

    /// Drops the messages of the stream of snapshots on these subjects.
    pub(super) async fn drop_snapshot(&self, filter: String) -> Result<(), LogError> {
        let tried = format!("drop {filter}");
        let dropped = self.snapshots.stream.purge().filter(filter).await;
        dropped.map(|_| ()).map_err(LogError::tried(tried))
    }
}

/// The way in which NATS checks that the log ends as a writer thinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// The last entry is this one.
    Entry(Position),
    /// The last message has this number. For a log without entries, and for a server that has
    /// forgotten its last entry's name: it does at a restart, if the entry is older than the
    /// stream's window for duplicates.
    Sequence(Sequence),
}

/// The reason why an entry was not sent.
#[derive(Debug)]
pub(super) enum AppendError {
    Entry(crate::log::EntryError),
    Nats(PublishError),
}

/// Returns whether a stream, or a message in it, is not there.
fn is_unknown(error: &stream::RawMessageError) -> bool {
    match error.kind() {
        RawMessageErrorKind::NoMessageFound => true,
        RawMessageErrorKind::JetStream(error) => error.error_code().0 == STREAM_NOT_FOUND,
        _ => false,
    }
}

/// Returns whether a stream is not there.
fn is_missing(error: &jetstream::context::GetStreamError) -> bool {
    use async_nats::jetstream::context::GetStreamErrorKind;
    match error.kind() {
        GetStreamErrorKind::JetStream(error) => error.error_code().0 == STREAM_NOT_FOUND,
        _ => false,
    }
}
