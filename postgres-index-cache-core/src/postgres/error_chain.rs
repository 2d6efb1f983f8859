//! [`chain`]: the text of an error and of its causes, on one line.

/// Returns the text of an error with its causes, separated by `: `. The `Display` of
/// tokio-postgres' errors omits the causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    std::iter::once(error.to_string())
        .chain(causes.map(ToString::to_string))
        .collect::<Vec<_>>()
        .join(": ")
}
