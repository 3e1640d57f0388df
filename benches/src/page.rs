//! The page of the documentation that shows what was measured: between two marks stands what this
//! program has written, all around them what people have.

use std::io;

const BEGIN: &str = "<!-- measured: written by benches/run.sh --docs -->";
const END: &str = "<!-- measured until here -->";
/// It stands beside the page.
const PICTURE: &str = "![procsig beside others](performance.svg)";

/// The page with these tables in place of those that it had.
///
/// # Errors
/// If the marks are not there.
pub fn with(page: &str, tables: &str) -> io::Result<String> {
    let (before, rest) = page.split_once(BEGIN).ok_or_else(|| missing(BEGIN))?;
    let (_, after) = rest.split_once(END).ok_or_else(|| missing(END))?;
    Ok(format!("{before}{BEGIN}\n\n{PICTURE}\n\n{}\n\n{END}{after}", tables.trim()))
}

fn missing(mark: &str) -> io::Error {
    io::Error::other(format!("the page has no line {mark:?}, where tables are to stand"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_replaced_and_all_else_stays() {
        let page = format!("# Title\n\n{BEGIN}\nold\n{END}\n\nProse.\n");
        let once = with(&page, "new\n").unwrap();
        assert_eq!(once, format!("# Title\n\n{BEGIN}\n\n{PICTURE}\n\nnew\n\n{END}\n\nProse.\n"));
        assert_eq!(with(&once, "new\n").unwrap(), once);
    }

    #[test]
    fn a_page_without_marks_is_left_alone() {
        with("# Title\n", "new").unwrap_err();
        with(&format!("{END}\n{BEGIN}\n"), "new").unwrap_err();
    }
}
