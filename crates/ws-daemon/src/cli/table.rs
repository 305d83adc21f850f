//! Tables for people: a heading, a row a thing, columns as wide as they need to be. On a terminal a table fits its width and
//! has colours; elsewhere it is plain and whole. Programs read `--json`.

use std::io;

use owo_colors::{OwoColorize, Style};
use unicode_width::UnicodeWidthStr;

use super::clean::clean;
use super::exit::Trouble;
use super::printer::{Printer, cut, width_of};

/// Columns that shrink keep at least so much.
const NARROWEST: usize = 8;

/// Spaces between two columns.
const GAP: usize = 2;

/// One entry, clean.
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// Plain text; nothing is shown as `-`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let text = if text.is_empty() { "-".to_owned() } else { clean(text) };
        Self { text, style: Style::new() }
    }

    /// Good news.
    #[must_use]
    pub fn good(text: &str) -> Self {
        Self { style: Style::new().green(), ..Self::new(text) }
    }

    /// Bad news.
    #[must_use]
    pub fn bad(text: &str) -> Self {
        Self { style: Style::new().red(), ..Self::new(text) }
    }
}

/// A table in the making.
#[derive(Debug)]
pub struct Table<const N: usize> {
    heading: [&'static str; N],
    /// Which columns may be cut where there is no room.
    shrinks: [bool; N],
    rows: Vec<[Cell; N]>,
}

impl<const N: usize> Table<N> {
    /// Without rows. Columns whose heading starts with `~` may be cut.
    #[must_use]
    pub fn new(heading: [&'static str; N]) -> Self {
        let shrinks = heading.map(|word| word.starts_with('~'));
        Self { heading: heading.map(|word| word.trim_start_matches('~')), shrinks, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, row: [Cell; N]) {
        self.rows.push(row);
    }

    /// Prints it.
    pub fn print(&self, printer: &mut Printer) -> Result<(), Trouble> {
        let (width, colours) = (width_of(&io::stdout()), super::colours(&io::stdout()));
        for line in self.lines(width, colours) {
            printer.line(line)?;
        }
        Ok(())
    }

    fn lines(&self, width: Option<usize>, colours: bool) -> Vec<String> {
        let columns = self.columns(width);
        let heading = self.heading.map(|word| Cell { text: word.to_owned(), style: Style::new().bold() });
        let rows = std::iter::once(&heading).chain(&self.rows);
        rows.map(|row| line(row, &columns, colours)).collect()
    }

    /// How wide each column is that is shown: as its widest entry, or, where that is too much, the widest that may shrink gives
    /// way; where that does not help, the last are left out.
    fn columns(&self, width: Option<usize>) -> Vec<usize> {
        let widest = |at: usize| self.rows.iter().map(|row| row[at].text.width()).max().unwrap_or_default();
        let whole: Vec<usize> = (0..N).map(|at| widest(at).max(self.heading[at].width())).collect();
        let Some(width) = width else { return whole };
        let fitting = (1..=N).rev().find_map(|shown| self.shrunk(&whole[..shown], width));
        fitting.unwrap_or_else(|| vec![width])
    }

    /// The columns, as narrow as they need to be for `width`; `None` if they cannot be.
    fn shrunk(&self, whole: &[usize], width: usize) -> Option<Vec<usize>> {
        let mut columns = whole.to_vec();
        while columns.iter().sum::<usize>() + GAP * columns.len().saturating_sub(1) > width {
            let can = (0..columns.len()).filter(|at| self.shrinks[*at] && columns[*at] > NARROWEST);
            let at = can.max_by_key(|at| columns[*at])?;
            columns[at] -= 1;
        }
        Some(columns)
    }
}

fn line<const N: usize>(row: &[Cell; N], columns: &[usize], colours: bool) -> String {
    let mut line = String::new();
    for (at, (cell, column)) in row.iter().zip(columns).enumerate() {
        let text = cut(&cell.text, *column);
        let fill = if at + 1 == columns.len() { 0 } else { GAP + column.saturating_sub(text.width()) };
        if colours {
            line.push_str(&text.style(cell.style).to_string());
        } else {
            line.push_str(&text);
        }
        line.push_str(&" ".repeat(fill));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table<3> {
        let mut table = Table::new(["~NAME", "STATE", "~TAGS"]);
        table.row([Cell::new("漢字"), Cell::good("connected"), Cell::new("")]);
        table.row([Cell::new("a-rather-long-name\u{1b}[2J"), Cell::bad("absent"), Cell::new("sms, europe, backup")]);
        table
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let expected = [
            "NAME                    STATE      TAGS",
            "漢字                    connected  -",
            "a-rather-long-name [2J  absent     sms, europe, backup",
        ];
        assert_eq!(table().lines(None, false), expected);
    }

    #[test]
    fn a_table_fits_the_terminal() {
        for width in 1..60 {
            for line in table().lines(Some(width), false) {
                assert!(line.width() <= width, "{width}: {line}");
            }
        }
        assert_eq!(table().lines(Some(36), false)[2], "a-rather-lo…  absent     sms, europ…");
        assert_eq!(table().lines(Some(25), false)[2], "a-rather-long…  absent");
        assert_eq!(table().lines(Some(5), false), ["NAME", "漢字", "a-ra…"]);
    }

    #[test]
    fn colours_are_round_the_text_and_take_no_room() {
        let coloured = table().lines(None, true);
        assert!(coloured[1].contains("\u{1b}[32mconnected\u{1b}["), "{coloured:?}");
        assert!(coloured[2].contains("\u{1b}[31mabsent\u{1b}["), "{coloured:?}");
    }
}
