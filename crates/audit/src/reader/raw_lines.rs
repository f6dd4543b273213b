//! Lines of an input as bytes.
//!
//! Invariant: memory is bounded by the longest line that is kept, for any input.

use std::io::{self, BufRead};

/// The longest line that is read, in bytes. No record is longer.
pub const LONGEST_LINE: usize = 1 << 20;

/// A line of an input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawLine<'a> {
    /// The line's bytes without the line end; `None` if there are more than [`LONGEST_LINE`].
    pub text: Option<&'a [u8]>,
    /// The line's number in its input, from 1.
    pub number: u64,
    /// Whether the line has a line end. Only the last one may have none: it is torn, or still being written.
    pub is_finished: bool,
}

/// Reads the lines of an input.
#[derive(Debug)]
pub struct RawLines<R> {
    input: R,
    /// How many bytes of the input's buffer the last line took.
    taken: usize,
    /// The beginning of a line that spans several buffers.
    beginning: Vec<u8>,
    /// Whether that line is too long: its bytes are then not kept.
    is_too_long: bool,
    /// Whether the last line had no line end yet: the next one continues it.
    is_unfinished: bool,
    /// How many line ends have been read.
    ended: u64,
}

impl<R: BufRead> RawLines<R> {
    /// The lines of this input.
    pub fn new(input: R) -> Self {
        Self { input, taken: 0, beginning: Vec::new(), is_too_long: false, is_unfinished: false, ended: 0 }
    }

    /// The next line; `None` at the end. If the input grows after that, further calls return further lines,
    /// and a line that was not finished is returned again as a whole.
    pub fn next_line(&mut self) -> io::Result<Option<RawLine<'_>>> {
        self.input.consume(std::mem::take(&mut self.taken));
        if !std::mem::take(&mut self.is_unfinished) {
            self.beginning.clear();
            self.is_too_long = false;
        }
        loop {
            let available = match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                available => available?,
            };
            if available.is_empty() {
                if self.beginning.is_empty() && !self.is_too_long {
                    return Ok(None);
                }
                self.is_unfinished = true;
                let text = (!self.is_too_long).then_some(&*self.beginning);
                return Ok(Some(RawLine { text, number: self.ended + 1, is_finished: false }));
            }
            let end = memchr::memchr(b'\n', available);
            let length = end.unwrap_or(available.len());
            self.is_too_long |= self.beginning.len() + length > LONGEST_LINE;
            let is_whole = self.beginning.is_empty() && !self.is_too_long;
            if self.is_too_long {
                self.beginning.clear();
            } else if end.is_none() || !is_whole {
                self.beginning.extend_from_slice(&available[..length]);
            }
            if end.is_none() {
                self.input.consume(length);
                continue;
            }
            self.ended += 1;
            self.taken = length + 1;
            let text = match (self.is_too_long, is_whole) {
                (true, _) => None,
                // The buffer still has bytes, so nothing is read.
                (false, true) => Some(&self.input.fill_buf()?[..length]),
                (false, false) => Some(&*self.beginning),
            };
            return Ok(Some(RawLine { text, number: self.ended, is_finished: true }));
        }
    }
}
