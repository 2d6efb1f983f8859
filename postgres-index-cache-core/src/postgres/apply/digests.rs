//! [`DigestSource`]: the rows of a cache as digests, for answers to the fleet's questions.
//!
//! A cache of cells makes them when asked. A cache of models has them beside the rows: a model
//! cannot be made into cells again.

use super::sink::{CacheSink, RowDecoder};
use crate::digest::{Digest, RowDigester};
use crate::table_cache::KeyBuf;
use parking_lot::RwLock;
use std::sync::Arc;

/// The most rows that are passed under one lock: about half a millisecond of work, for which a
/// writer may wait.
const PIECE: usize = 2048;

/// What a cache has under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct FoundRow {
    /// The digest of the row; `None` if there is none.
    pub(crate) digest: Option<Digest>,
    /// Whether the table's row does not fit the model, and is kept out.
    pub(crate) is_kept_out: bool,
}

/// The rows of a cache as digests. The cache stays behind its lock, so a source may be handed to
/// another thread.
pub(crate) trait DigestSource: Send {
    /// Returns the digest of the columns' names.
    fn columns(&self) -> Digest;

    /// Passes the digests of key and row of some rows, from the slot `from` on. Returns the slot to
    /// go on from; `None` after the last row.
    fn visit(&mut self, from: u32, visit: &mut dyn FnMut(Digest, Digest)) -> Option<u32>;

    /// Returns what the cache has under a key.
    fn row(&mut self, key: &KeyBuf) -> FoundRow;

    /// Returns the key digests of the rows that are kept out, at most `most` of them.
    fn kept_out(&self, most: usize) -> Vec<Digest>;
}

/// The [`DigestSource`] of any [`CacheSink`].
pub(crate) struct SinkDigests<C: CacheSink> {
    cache: Arc<RwLock<C>>,
    digester: RowDigester,
}

impl<C: CacheSink> SinkDigests<C> {
    pub(crate) fn new(cache: Arc<RwLock<C>>, decoder: &C::Decoder) -> Self {
        Self {
            cache,
            digester: RowDigester::new(decoder.shape()),
        }
    }
}

impl<C: CacheSink> DigestSource for SinkDigests<C> {
    fn columns(&self) -> Digest {
        self.digester.columns()
    }

    fn visit(&mut self, from: u32, visit: &mut dyn FnMut(Digest, Digest)) -> Option<u32> {
        let cache = self.cache.read();
        cache.visit_digests(&mut self.digester, from, PIECE, visit)
    }

    fn row(&mut self, key: &KeyBuf) -> FoundRow {
        let cache = self.cache.read();
        FoundRow {
            digest: cache.row_digest(&mut self.digester, key),
            is_kept_out: cache.is_kept_out(key),
        }
    }

    fn kept_out(&self, most: usize) -> Vec<Digest> {
        self.cache.read().kept_out_keys(most)
    }
}
