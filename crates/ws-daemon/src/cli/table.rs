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
        rows.map(|row| line(row, &columns, width.unwrap_or(usize::MAX), colours)).collect()
    }

    /// How wide each column is: as its widest entry, or, where that is too much, the widest that may shrink gives way.
    fn columns(&self, width: Option<usize>) -> [usize; N] {
        let widest = |at: usize| self.rows.iter().map(|row| row[at].text.width()).max().unwrap_or_default();
        let mut columns: [usize; N] = std::array::from_fn(|at| widest(at).max(self.heading[at].width()));
        let Some(width) = width else { return columns };
        while columns.iter().sum::<usize>() + 2 * N.saturating_sub(1) > width {
            let can = (0..N).filter(|at| self.shrinks[*at] && columns[*at] > NARROWEST);
            let Some(at) = can.max_by_key(|at| columns[*at]) else { break };
            columns[at] -= 1;
        }
        columns
    }
}

/// One line; columns for which there is no room at all are left out.
fn line<const N: usize>(row: &[Cell; N], columns: &[usize; N], width: usize, colours: bool) -> String {
    let (mut line, mut used) = (String::new(), 0_usize);
    for (at, (cell, column)) in row.iter().zip(columns).enumerate() {
        let gap = if at == 0 { 0 } else { 2 };
        let room = width.saturating_sub(used + gap).min(*column);
        if room == 0 {
            break;
        }
        let text = cut(&cell.text, room);
        let fill = if at + 1 == N { 0 } else { room - text.width().min(room) };
        line.push_str(&" ".repeat(gap));
        if colours {
            line.push_str(&text.style(cell.style).to_string());
        } else {
            line.push_str(&text);
        }
        line.push_str(&" ".repeat(fill));
        used += gap + room;
    }
    line.truncate(line.trim_end_matches(' ').len());
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
    }

    #[test]
    fn colours_are_round_the_text_and_take_no_room() {
        let coloured = table().lines(None, true);
        assert!(coloured[1].contains("\u{1b}[32mconnected\u{1b}["), "{coloured:?}");
        assert!(coloured[2].contains("\u{1b}[31mabsent\u{1b}["), "{coloured:?}");
    }
}
