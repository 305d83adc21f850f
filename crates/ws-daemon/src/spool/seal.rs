//! The checksum of a row: over every field with its type and length, so that no two rows of different content are likely to share
//! one. It never reads or writes the row.

use crc32fast::Hasher;

/// A checksum in the making.
pub struct Seal(Hasher);

impl Seal {
    /// Of a row of that table.
    pub fn of(table: &str) -> Self {
        Self(Hasher::new()).text(table)
    }

    /// And a number.
    pub fn int(mut self, value: i64) -> Self {
        let mut field = [1; 9];
        field[1..].copy_from_slice(&value.to_le_bytes());
        self.0.update(&field);
        self
    }

    /// And a number, or none.
    pub fn maybe_int(mut self, value: Option<i64>) -> Self {
        match value {
            Some(value) => self.int(value),
            None => {
                self.0.update(&[0]);
                self
            }
        }
    }

    /// And a text.
    pub fn text(self, value: &str) -> Self {
        self.field(2, value.as_bytes())
    }

    /// And a text, or none.
    pub fn maybe_text(mut self, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(value),
            None => {
                self.0.update(&[0]);
                self
            }
        }
    }

    /// And bytes.
    pub fn bytes(self, value: &[u8]) -> Self {
        self.field(3, value)
    }

    /// As it stands in the row.
    pub fn sum(self) -> i64 {
        i64::from(self.0.finalize())
    }

    fn field(mut self, kind: u8, value: &[u8]) -> Self {
        let mut head = [kind; 9];
        head[1..].copy_from_slice(&(value.len() as u64).to_le_bytes());
        self.0.update(&head);
        self.0.update(value);
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
}
