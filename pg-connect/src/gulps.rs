//! [`Gulps`]: reads what the server sends in large gulps, and merges messages that carry COPY data.
//!
//! PostgreSQL sends each row of a COPY as a message of its own, and hands the kernel 8 kB at a
//! time. A reader that is woken for every 8 kB costs both sides more than the rows do, and so does
//! a message for every row. The boundaries of these messages mean nothing (manual, 54.2.6 COPY
//! Operations), so many of them become one here, before tokio-postgres sees them.
//!
//! ```text
//! server   d│row  d│row  d│row  …  c  C│COPY 3  Z
//! Gulps    d│row row row           c  C│COPY 3  Z ──→ tokio-postgres
//! ```

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Sleep;

/// The bytes that are read at once at most.
const GULP: usize = 1 << 20;
/// As many bytes in one read are the middle of a COPY.
const BULK: usize = 8 << 10;
/// The pause after such a read, in which the server goes on without being disturbed. Far less than
/// it takes the server to fill the kernel's buffer.
const PAUSE: Duration = Duration::from_millis(1);
/// The bytes of a message up to its content: the kind and the length.
const HEAD: usize = 5;

/// The most bytes of rows that become one message. Each message costs tokio-postgres and whoever
/// reads the rows a little; larger ones would be collected for longer.
const MERGED: usize = 64 << 10;

/// The messages of the server, between the stream and tokio-postgres.
#[derive(Debug)]
pub(crate) struct Gulps {
    /// Bytes of the server; those from `start` to `end` were not handed out yet.
    raw: Vec<u8>,
    start: usize,
    end: usize,
    /// Whether the last read filled all the room there was, so that there may be more at once.
    has_more: bool,
    /// What is being handed out.
    out: HandedOut,
    /// Whether reading pauses in the middle of a COPY. It must not where the kernel keeps little
    /// for a reader, as a socket of this machine does: the server would wait.
    pauses: bool,
    pause: Option<Pin<Box<Sleep>>>,
}

/// The message that is being handed out, as far as there was no room for it yet.
#[derive(Debug, Default)]
struct HandedOut {
    /// The head of a merged message, and how many of its bytes were handed out.
    head: Option<([u8; HEAD], usize)>,
    /// The bytes of the server's messages that are merged, their heads included, but for the one
    /// whose content is passing.
    rows: usize,
    /// The bytes to come of a message's content.
    passing: usize,
}

impl Gulps {
    pub(crate) fn new(pauses: bool) -> Self {
        Self {
            raw: Vec::new(),
            start: 0,
            end: 0,
            has_more: false,
            out: HandedOut::default(),
            pauses,
            pause: None,
        }
    }

    /// Reads from `stream` as [`AsyncRead::poll_read`] does.
    pub(crate) fn poll_read(
        &mut self,
        mut stream: Pin<&mut (impl AsyncRead + ?Sized)>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let before = out.filled().len();
            self.hand_out(out);
            if out.filled().len() > before || out.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            let length = ready!(self.fill(stream.as_mut(), cx))?;
            if length == 0 {
                // The end. The beginning of a message, if there is one, is the reader's to judge.
                let rest = out.remaining().min(self.end - self.start);
                self.put(rest, out);
                return Poll::Ready(Ok(()));
            }
            if self.pauses && length >= BULK && !self.has_more && self.raw[self.start] == b'd' {
                self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
            }
        }
    }

    /// Reads once from `stream`, behind what is there. Returns the number of bytes.
    fn fill(
        &mut self,
        stream: Pin<&mut (impl AsyncRead + ?Sized)>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        // At most the head of a message, or one row, is left over.
        self.raw.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.raw.len() < self.end + BULK {
            self.raw.resize(self.end + 2 * BULK, 0);
        }
        let mut room = ReadBuf::new(&mut self.raw[self.end..]);
        ready!(stream.poll_read(cx, &mut room))?;
        let length = room.filled().len();
        self.has_more = room.remaining() == 0;
        self.end += length;
        if self.has_more && self.raw.len() < GULP {
            // Small at first: most sessions never run a COPY.
            self.raw.resize(GULP, 0);
        }
        Poll::Ready(Ok(length))
    }

    /// Hands out as much of what was read as there is room for.
    fn hand_out(&mut self, out: &mut ReadBuf<'_>) {
        while out.remaining() > 0 {
            if let Some((head, done)) = &mut self.out.head {
                let length = out.remaining().min(HEAD - *done);
                out.put_slice(&head[*done..*done + length]);
                *done += length;
                if *done == HEAD {
                    self.out.head = None;
                }
                continue;
            }
            if self.out.passing > 0 {
                let there = self.end - self.start;
                let length = self.out.passing.min(there).min(out.remaining());
                if length == 0 {
                    return;
                }
                self.put(length, out);
                self.out.passing -= length;
                continue;
            }
            let there = &self.raw[self.start..self.end];
            // The head of any other message passes with its content. So does that of a row which
            // is not whole yet: it may be a gigabyte.
            let Some(length) = message_length(there) else {
                return;
            };
            if self.out.rows == 0 {
                let rows = whole_rows(there);
                if rows.content == 0 {
                    self.out.passing = length;
                    continue;
                }
                let merged = u32::try_from(rows.content + HEAD - 1).unwrap_or(u32::MAX);
                let [a, b, c, d] = merged.to_be_bytes();
                self.out.head = Some(([b'd', a, b, c, d], 0));
                self.out.rows = rows.length;
                continue;
            }
            // The next of the rows that are merged: its content alone passes.
            self.start += HEAD;
            self.out.passing = length - HEAD;
            self.out.rows -= length;
        }
    }

    /// Hands out so many bytes as they are.
    fn put(&mut self, length: usize, out: &mut ReadBuf<'_>) {
        out.put_slice(&self.raw[self.start..self.start + length]);
        self.start += length;
    }
}

/// Messages at the front that are merged.
struct Rows {
    /// Their bytes, heads included.
    length: usize,
    /// The bytes of their contents.
    content: usize,
}

/// Returns the whole messages with COPY data at the front of `bytes`, those of [`MERGED`] bytes at
/// most.
fn whole_rows(bytes: &[u8]) -> Rows {
    let mut rows = Rows {
        length: 0,
        content: 0,
    };
    loop {
        let rest = &bytes[rows.length..];
        let Some(length) =
            message_length(rest).filter(|&length| rest[0] == b'd' && length <= rest.len())
        else {
            return rows;
        };
        if rows.content + length - HEAD > MERGED {
            return rows;
        }
        rows.length += length;
        rows.content += length - HEAD;
    }
}

/// Returns the bytes of the message at the front, head included; `None` if its head is not there.
fn message_length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.first_chunk::<HEAD>()?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    // The length counts itself, and not the kind. A length below four is no message's: the reader
    // is to see it and refuse it.
    Some((length as usize + 1).max(HEAD))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use tokio::io::AsyncReadExt;

    /// A stream that hands out its bytes in pieces of these lengths.
    struct Pieces {
        bytes: VecDeque<u8>,
        lengths: std::iter::Cycle<std::vec::IntoIter<usize>>,
    }

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            out: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let length = self.lengths.next().unwrap_or(1);
            let length = length.min(out.remaining()).min(self.bytes.len());
            let piece: Vec<u8> = self.bytes.drain(..length).collect();
            out.put_slice(&piece);
            Poll::Ready(Ok(()))
        }
    }

    /// A stream under `Gulps`.
    struct Merged {
        gulps: Gulps,
        pieces: Pieces,
    }

    impl AsyncRead for Merged {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            out: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let Self { gulps, pieces } = &mut *self;
            gulps.poll_read(Pin::new(pieces), cx, out)
        }
    }

    fn message(kind: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend((content.len() as u32 + 4).to_be_bytes());
        bytes.extend(content);
        bytes
    }

    /// Returns the messages in `bytes`, with the contents of neighbours of kind `d` put together.
    fn meaning(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut messages: Vec<(u8, Vec<u8>)> = Vec::new();
        while let Some(length) = message_length(bytes) {
            let content = &bytes[HEAD..length.min(bytes.len())];
            match messages.last_mut() {
                Some((b'd', rows)) if bytes[0] == b'd' => rows.extend(content),
                _ => messages.push((bytes[0], content.to_vec())),
            }
            bytes = &bytes[length.min(bytes.len())..];
        }
        messages.push((0, bytes.to_vec()));
        messages
    }

    /// Reads all of `bytes` through `Gulps`: `lengths` are those of the reads below, `rooms` those
    /// of the reads above.
    fn through(bytes: &[u8], lengths: Vec<usize>, rooms: &[usize]) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let mut merged = Merged {
            gulps: Gulps::new(true),
            pieces: Pieces {
                bytes: bytes.iter().copied().collect(),
                lengths: lengths.into_iter().cycle(),
            },
        };
        runtime.block_on(async {
            let mut all = Vec::new();
            for room in rooms.iter().cycle() {
                let mut piece = vec![0; *room];
                let length = merged.read(&mut piece).await.unwrap();
                if length == 0 {
                    break;
                }
                all.extend(&piece[..length]);
            }
            all
        })
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_changed_but_the_bounds_of_copy_data(
            messages in prop::collection::vec(
                (prop::sample::select(&b"dddddcCZAT"[..]), prop::collection::vec(any::<u8>(), 0..60)),
                0..60,
            ),
            long in prop::option::of(0_usize..40_000),
            cut in prop::option::of(0_usize..200),
            lengths in prop::collection::vec(1_usize..20_000, 1..6),
            rooms in prop::collection::vec(1_usize..9000, 1..6),
        ) {
            let mut bytes: Vec<u8> = messages
                .iter()
                .flat_map(|(kind, content)| message(*kind, content))
                .collect();
            if let Some(long) = long {
                bytes.extend(message(b'd', &vec![7; long]));
                bytes.extend(message(b'd', b"behind"));
            }
            if let Some(cut) = cut {
                bytes.truncate(bytes.len().saturating_sub(cut));
            }
            let read = through(&bytes, lengths, &rooms);
            prop_assert_eq!(meaning(&read), meaning(&bytes));
        }
    }

    #[test]
    fn rows_become_one_message_whatever_room_there_is() {
        let rows: Vec<u8> = (0..1000_u16)
            .flat_map(|row| message(b'd', &row.to_be_bytes()))
            .collect();
        let read = through(&rows, vec![100_000], &[8192]);
        assert_eq!(message_length(&read), Some(read.len()), "one message");
        assert_eq!(read.len(), HEAD + 2000);
        // Also if there is room for a part of it at a time.
        assert_eq!(through(&rows, vec![100_000], &[3]), read);
    }

    #[test]
    fn lengths_that_no_message_has_are_passed_on() {
        for length in [0_u32, 3, u32::MAX] {
            let mut bytes = vec![b'd'];
            bytes.extend(length.to_be_bytes());
            bytes.extend(b"and so on");
            let read = through(&bytes, vec![4], &[3]);
            assert_eq!(read, bytes);
        }
    }
}
