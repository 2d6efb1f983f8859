//! The outcome of storing a row: [`Upserted`], or [`StoreError`].

/// The effect of an upsert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upserted {
    /// No row had the key; the row was added.
    Added,
    /// The row with the key was different; it was replaced.
    Changed,
    /// The row with the key was equal, byte by byte; nothing was done.
    Unchanged,
}

/// The reason why a row could not be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A row with the same key is in the cache, or came in the same snapshot.
    #[error("two rows have the key {0}")]
    DuplicateKey(String),
    /// All 2^31 slots that a cache can address are in use.
    #[error("the cache is full: it holds 2^31 rows, the most it can address")]
    Full,
    /// The row's cells of no fixed width take more than 4 GiB. The number is their length in bytes,
    /// headers included.
    #[error("a row of {0} bytes is longer than a cache can hold")]
    TooLong(usize),
    /// The application's model could not take the row.
    #[error("{0}")]
    Model(String),
}
