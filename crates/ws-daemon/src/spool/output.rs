//! What queued runs have printed: the latest of each, in pieces. It never interprets a byte.

use rusqlite::{Row, params};
use ws_daemon_protocol::id::RunId;

use super::records::{OutputPart, OutputRange};
use super::seal::Seal;
use super::store::{Store, Verdict, sealed, signed, unsigned};

/// A piece is added to until it has so many bytes; so a run has few rows however little it prints at a time.
const PIECE_BYTES: usize = 16 * 1024;

/// A row of `output`.
struct Piece {
    id: i64,
    run: Box<str>,
    stream: u8,
    start: i64,
    bytes: Vec<u8>,
}

impl Store {
    /// See [`Spool::keep_output`](super::Spool::keep_output).
    pub fn keep_output(&mut self, run: &RunId, stream: u8, offset: u64, bytes: &[u8]) -> Verdict<()> {
        let run = run.to_string();
        let last = self.one(
            "SELECT id, run, stream, start, bytes, size, seal FROM output WHERE run = ?1 AND stream = ?2 ORDER BY start DESC LIMIT 1",
            params![run, stream],
            Piece::read,
        )?;
        let known = last.as_ref().map_or(0, Piece::end);
        let limit = usize::try_from(self.bounds.output_bytes).unwrap_or(usize::MAX);
        let skip = usize::try_from(known.saturating_sub(offset)).unwrap_or(usize::MAX).max(bytes.len().saturating_sub(limit));
        let Some(new) = bytes.get(skip..).filter(|new| !new.is_empty()) else { return Ok(()) };
        let offset = offset + skip as u64;
        self.make_room(0, new.len() as u64)?;
        match last {
            Some(mut last) if last.end() == offset && last.bytes.len() + new.len() <= PIECE_BYTES => {
                last.bytes.extend_from_slice(new);
                let values = params![last.id, last.size(), last.bytes, last.seal()];
                self.write("UPDATE output SET size = ?2, bytes = ?3, seal = ?4 WHERE id = ?1", values)?;
            }
            _ => self.insert_piece(&run, stream, offset, new)?,
        }
        self.drop_oldest_output(&run)
    }

    /// See [`Spool::read_output`](super::Spool::read_output).
    pub fn read_output(&mut self, run: &RunId, stream: u8, from: u64, max: usize) -> Verdict<OutputPart> {
        let run = run.to_string();
        let end: Option<i64> = self.one(
            "SELECT start + size FROM output WHERE run = ?1 AND stream = ?2 ORDER BY start DESC LIMIT 1",
            params![run, stream],
            |row| Ok(row.get(0)?),
        )?;
        let mut part = OutputPart { offset: from, bytes: Vec::new(), end: end.map_or(0, unsigned) };
        let sql = "SELECT id, run, stream, start, bytes, size, seal FROM output
            WHERE run = ?1 AND stream = ?2 AND start + size > ?3 ORDER BY start";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![run, stream, signed(from)])?;
        while part.bytes.len() < max
            && let Some(row) = rows.next()?
        {
            let piece = Piece::read(row)?;
            let start = unsigned(piece.start);
            if part.bytes.is_empty() {
                part.offset = from.max(start);
            } else if start != part.offset + part.bytes.len() as u64 {
                break;
            }
            let skip = usize::try_from(part.offset.saturating_sub(start)).unwrap_or(usize::MAX);
            let skip = if part.bytes.is_empty() { skip } else { 0 };
            let fresh = piece.bytes.get(skip..).unwrap_or_default();
            part.bytes.extend_from_slice(&fresh[..fresh.len().min(max - part.bytes.len())]);
        }
        Ok(part)
    }

    /// See [`Spool::output_range`](super::Spool::output_range).
    pub fn output_range(&mut self, run: &RunId) -> Verdict<Vec<OutputRange>> {
        let sql = "SELECT stream, min(start), max(start + size) FROM output WHERE run = ?1 GROUP BY stream ORDER BY stream";
        self.all(sql, &[&run.to_string()], |row| {
            Ok(OutputRange { stream: row.get(0)?, from: unsigned(row.get(1)?), to: unsigned(row.get(2)?) })
        })
    }

    /// See [`Spool::drop_output`](super::Spool::drop_output).
    pub fn drop_output(&mut self, run: &RunId) -> Verdict<()> {
        self.write("DELETE FROM output WHERE run = ?1", [run.to_string()]).map(drop)
    }

    /// Reads the whole table.
    pub fn count_output(&mut self) -> Verdict<()> {
        let sql = "SELECT id, run, stream, start, bytes, size, seal FROM output";
        let ids = self.all(sql, &[], |row| Piece::read(row).map(|piece| piece.id))?;
        self.tally.last.output = ids.into_iter().max().unwrap_or(0);
        Ok(())
    }

    fn insert_piece(&mut self, run: &str, stream: u8, offset: u64, bytes: &[u8]) -> Verdict<()> {
        let id = self.tally.last.output + 1;
        let piece = Piece { id, run: run.into(), stream, start: signed(offset), bytes: bytes.to_vec() };
        let sql = "INSERT INTO output (id, run, stream, start, size, bytes, seal) VALUES (?, ?, ?, ?, ?, ?, ?)";
        let values = params![id, piece.run, stream, piece.start, piece.size(), piece.bytes, piece.seal()];
        self.write(sql, values)?;
        self.tally.last.output = id;
        Ok(())
    }

    /// Drops whole pieces of the run, oldest first, until what is left fits.
    fn drop_oldest_output(&mut self, run: &str) -> Verdict<()> {
        let kept = "SELECT coalesce(sum(size), 0) FROM output WHERE run = ?1";
        let mut kept = self.one(kept, [run], |row| Ok(unsigned(row.get(0)?)))?.unwrap_or(0);
        while kept > self.bounds.output_bytes {
            let sql = "SELECT id, size FROM output WHERE run = ?1 ORDER BY id LIMIT 1";
            let Some((id, size)) = self.one(sql, [run], |row| Ok((row.get::<_, i64>(0)?, unsigned(row.get(1)?))))? else {
                break;
            };
            self.write("DELETE FROM output WHERE id = ?1", [id])?;
            kept = kept.saturating_sub(size);
        }
        Ok(())
    }
}

impl Piece {
    fn read(row: &Row<'_>) -> Verdict<Self> {
        let piece = Self { id: row.get(0)?, run: row.get(1)?, stream: row.get(2)?, start: row.get(3)?, bytes: row.get(4)? };
        let (id, seal) = (piece.id, piece.seal());
        let whole = row.get::<_, i64>(5)? == piece.size();
        sealed("output", id, piece, if whole { seal } else { -1 }, row.get(6)?)
    }

    fn size(&self) -> i64 {
        signed(self.bytes.len() as u64)
    }

    fn end(&self) -> u64 {
        unsigned(self.start) + self.bytes.len() as u64
    }

    fn seal(&self) -> i64 {
        let place = Seal::of("output").int(self.id).text(&self.run).int(i64::from(self.stream)).int(self.start);
        place.bytes(&self.bytes).sum()
    }
}
