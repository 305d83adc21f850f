//! The checksum of a row: over every field with its type and length, so that no two rows of different content are likely to share
//! one. It never reads or writes the row.

use crc32fast::Hasher;

/// A longer field is not put together with others: it is worth a turn of its own.
const LONG_BYTES: usize = 256;

/// A checksum in the making. Its fields are gathered: many small turns of the sum take longer than one.
pub struct Seal {
    sum: Hasher,
    gathered: Vec<u8>,
}

impl Seal {
    /// Of a row of that table.
    pub fn of(table: &str) -> Self {
        Self { sum: Hasher::new(), gathered: Vec::with_capacity(2 * LONG_BYTES) }.text(table)
    }

    /// And a number.
    pub fn int(mut self, value: i64) -> Self {
        self.gathered.push(1);
        self.gathered.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// And a number, or none.
    pub fn maybe_int(self, value: Option<i64>) -> Self {
        match value {
            Some(value) => self.int(value),
            None => self.nothing(),
        }
    }

    /// And a text.
    pub fn text(self, value: &str) -> Self {
        self.field(2, value.as_bytes())
    }

    /// And a text, or none.
    pub fn maybe_text(self, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(value),
            None => self.nothing(),
        }
    }

    /// And bytes.
    pub fn bytes(self, value: &[u8]) -> Self {
        self.field(3, value)
    }

    /// As it stands in the row.
    pub fn sum(mut self) -> i64 {
        self.sum.update(&self.gathered);
        i64::from(self.sum.finalize())
    }

    fn nothing(mut self) -> Self {
        self.gathered.push(0);
        self
    }

    fn field(mut self, kind: u8, value: &[u8]) -> Self {
        self.gathered.push(kind);
        self.gathered.extend_from_slice(&(value.len() as u64).to_le_bytes());
        if value.len() < LONG_BYTES {
            self.gathered.extend_from_slice(value);
        } else {
            self.sum.update(&self.gathered);
            self.gathered.clear();
            self.sum.update(value);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_has_another_sum() {
        let seal = || Seal::of("t");
        let sums = [
            seal().sum(),
            Seal::of("u").sum(),
            seal().int(1).sum(),
            seal().text("1").sum(),
            seal().bytes(b"1").sum(),
            seal().text("").sum(),
            seal().maybe_text(None).sum(),
            seal().text("ab").text("c").sum(),
            seal().text("a").text("bc").sum(),
            seal().int(1).maybe_int(None).sum(),
            seal().maybe_int(None).int(1).sum(),
        ];
        for (place, sum) in sums.iter().enumerate() {
            assert!(!sums[place + 1..].contains(sum), "number {place} has a twin");
        }
        assert_eq!(seal().maybe_text(Some("a")).maybe_int(Some(2)).sum(), seal().text("a").int(2).sum());
    }

    #[test]
    fn the_sum_is_that_of_the_fields_one_behind_the_other_however_long_they_are() {
        let long = "x".repeat(3 * LONG_BYTES);
        let mut plain = Hasher::new();
        for (kind, field) in [(2, "t"), (2, "short"), (2, &long), (3, &long[..LONG_BYTES]), (3, &long[1..LONG_BYTES])] {
            plain.update(&[&[kind][..], &(field.len() as u64).to_le_bytes(), field.as_bytes()].concat());
        }
        plain.update(&[&[1][..], &7_i64.to_le_bytes(), &[0]].concat());
        let seal = Seal::of("t").text("short").text(&long).bytes(&long.as_bytes()[..LONG_BYTES]);
        let seal = seal.bytes(&long.as_bytes()[1..LONG_BYTES]).int(7).maybe_text(None);
        assert_eq!(seal.sum(), i64::from(plain.finalize()));
    }
}
