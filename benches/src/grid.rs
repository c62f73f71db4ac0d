//! A table, for Markdown and for HTML.

use askama::Template;
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, ContentArrangement, Table};

/// The width, in characters, of a table that fits on a screen.
pub const SCREEN: usize = 120;

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Template)]
#[template(path = "grid.html")]
pub struct Grid {
    /// The names of the columns. The first column has the names of the rows.
    pub head: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<Cell>>,
}

/// One cell of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The text.
    pub text: String,
    /// Whether the text is a number.
    pub number: bool,
}

impl Cell {
    /// A cell with words.
    #[must_use]
    pub fn words(text: impl Into<String>) -> Self {
        let (text, number) = (text.into(), false);
        Self { text, number }
    }

    /// A cell with a number, or an empty one.
    #[must_use]
    pub fn number(text: Option<String>) -> Self {
        let (text, number) = (text.unwrap_or_default(), true);
        Self { text, number }
    }
}

/// A table with a title.
#[derive(Clone, Debug)]
pub struct Section {
    /// The name of the section in links.
    pub id: String,
    /// The title, often a question.
    pub title: String,
    /// The text above the table.
    pub text: String,
    /// The table.
    pub grid: Grid,
}

impl Section {
    /// A section with a table. `None` if the table has no rows.
    pub fn new(
        id: impl Into<String>,
        title: impl Into<String>,
        text: impl Into<String>,
        grid: Grid,
    ) -> Option<Self> {
        let (id, title, text) = (id.into(), title.into(), text.into());
        (!grid.rows.is_empty()).then_some(Self {
            id,
            title,
            text,
            grid,
        })
    }
}

impl Grid {
    /// A table with these columns, and no rows yet.
    pub fn new<S: Into<String>>(head: impl IntoIterator<Item = S>) -> Self {
        Self {
            head: head.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row of words and numbers. A missing number is an empty cell.
    pub fn push<S: Into<String>>(
        &mut self,
        words: impl IntoIterator<Item = S>,
        numbers: impl IntoIterator<Item = Option<String>>,
    ) {
        let words = words.into_iter().map(Cell::words);
        let numbers = numbers.into_iter().map(Cell::number);
        self.rows.push(words.chain(numbers).collect());
    }

    /// Whether a column has numbers in it.
    fn is_number(&self, column: &usize) -> bool {
        let mut cells = self.rows.iter().filter_map(|row| row.get(*column));
        cells.any(|cell| cell.number)
    }

    /// The table in Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut table = Table::new();
        table
            .load_style(ASCII_MARKDOWN)
            .set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(&self.head);
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| {
                let alignment = if cell.number {
                    CellAlignment::Right
                } else {
                    CellAlignment::Left
                };
                comfy_table::Cell::new(&cell.text).set_alignment(alignment)
            }));
        }
        format!("{table}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_have_the_cells_in_place() {
        let mut grid = Grid::new(["call", "ioctl"]);
        grid.push(["kvm_get_regs"], [Some("1248".into())]);
        assert_eq!(
            grid.markdown(),
            "| call         | ioctl |\n|--------------|-------|\n| kvm_get_regs |  1248 |\n"
        );
        let html = grid.render().unwrap();
        assert!(
            html.contains("<th scope=\"row\">kvm_<wbr>get_<wbr>regs</th>"),
            "{html}"
        );
        assert!(
            html.contains("<td class=\"number\">1248</td></tr>"),
            "{html}"
        );
    }
}
