//! The mark of one attempt: unique bytes in its payload, by which a receiver recognises it.

/// The start of every mark.
const BEGIN: [u8; 4] = *b"KvM!";

/// The number of an attempt, as bytes of its payload.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Mark(pub u32);

impl Mark {
    /// How many bytes it takes.
    pub const LENGTH: usize = 8;

    /// The bytes.
    pub fn bytes(self) -> [u8; Self::LENGTH] {
        let [a, b, c, d] = BEGIN;
        let [e, f, g, h] = self.0.to_be_bytes();
        [a, b, c, d, e, f, g, h]
    }

    /// A port for this attempt alone, so that it uses neither the connection nor the cached verdict of
    /// another attempt.
    pub fn port(self) -> u16 {
        20_000 + u16::try_from(self.0 % 40_000).unwrap_or_default()
    }

    /// That port as source and destination.
    pub fn ports(self) -> (u16, u16) {
        (self.port(), self.port())
    }

    /// The marks that these bytes contain.
    pub fn found_in(bytes: &[u8]) -> impl Iterator<Item = Self> {
        bytes.windows(Self::LENGTH).filter_map(|window| {
            let number = window.strip_prefix(&BEGIN)?;
            Some(Self(u32::from_be_bytes(number.try_into().ok()?)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_at_any_offset() {
        let mut bytes = vec![1, 2, 3];
        bytes.extend(Mark(7).bytes());
        bytes.extend(Mark(0x0102_0304).bytes());
        assert_eq!(Mark::found_in(&bytes).collect::<Vec<_>>(), [Mark(7), Mark(0x0102_0304)]);
        assert_eq!(Mark::found_in(&bytes[4..8]).count(), 0);
    }
}
