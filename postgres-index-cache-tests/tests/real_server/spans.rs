//! The spans of a replica, on a real server.

use crate::replica::{User, builder};
use crate::support::{Database, USERS};
use postgres_index_cache_core::TransactionToken;
use postgres_index_cache_core::triggers::{self, InstallOptions};
use std::fmt;
use std::sync::{Arc, Mutex};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Instrument as _, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

/// The spans of this test that were begun: `parent > name`, and the fields that are given or recorded.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push_str(&format!(" {field}={value:?}"));
    }
}

/// Marks a span of this test: other tests run beside it.
struct Own;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Seen {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let parent = span.parent();
        let of = parent.as_ref().map_or("none", |parent| parent.name());
        let mut text = format!("{of} > {}", span.name());
        attributes.record(&mut Fields(&mut text));
        let is_own = match &parent {
            Some(parent) => parent.extensions().get::<Own>().is_some(),
            None => span.name() == "request" || text.contains("node=\"traced\""),
        };
        if is_own {
            span.extensions_mut().insert(Own);
            self.0.lock().unwrap().push(text);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if span.extensions().get::<Own>().is_some() {
            let mut text = span.name().to_string();
            values.record(&mut Fields(&mut text));
            self.0.lock().unwrap().push(text);
        }
    }
}

/// The subscriber is that of the process. One of a thread would miss spans whose callsites another
/// thread has met first.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_waits_for_is_in_the_trace_of_the_caller() {
    let seen = Seen::default();
    let subscriber = tracing_subscriber::registry().with(seen.clone());
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let database = Database::with(USERS).await;
    let mut client = database.client().await;
    let options = InstallOptions::default();
    let request = async {
        triggers::install(&mut client, &["users"], &options)
            .await
            .unwrap();
        let mut builder = builder(&database);
        builder.name("traced");
        let users = builder.table::<User>("users");
        let replica = builder.open().await.unwrap();
        let token = client
            .query_one(TransactionToken::QUERY, &[])
            .await
            .unwrap();
        let token: TransactionToken = token.get::<_, &str>(0).parse().unwrap();
        replica.fence_for(&users).await.unwrap();
        replica.wait_for_in(&users, token).await.unwrap();
        replica.wait_for(token).await.unwrap();
        replica.verify(&users).await.unwrap();
        let objects = replica.objects(&users, 1 << 20, |(): &()| 1).unwrap();
        let nobody = uuid::Uuid::nil();
        let load = objects.get_or_load(&nobody, async || Ok::<_, ()>(Some(())));
        load.await.unwrap();
        replica.shutdown().await;
    };
    request.instrument(tracing::info_span!("request")).await;

    let spans = seen.0.lock().unwrap().join("\n");
    for wanted in [
        "request > triggers.install",
        "request > replica.open node=\"traced\"",
        "none > replica node=\"traced\"",
        "request > replica.fence\nreplica.fence table=\"users\"",
        "request > replica.wait_for",
        "replica.wait_for table=\"users\"",
        "request > replica.verify\nreplica.verify table=\"users\"",
        "request > replica.load_object\nreplica.load_object table=\"users\"",
        "replica.open > replica.read_table table=\"\\\"public\\\".\\\"users\\\"\" kind=All",
        "replica > replica.read_table table=\"\\\"public\\\".\\\"users\\\"\" kind=Compare",
    ] {
        assert!(spans.contains(wanted), "{wanted} is not among:\n{spans}");
    }
    // What the replica does by itself is in no request's trace.
    assert!(!spans.contains("request > replica.read_table"), "{spans}");
}
