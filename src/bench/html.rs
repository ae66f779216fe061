//! One page that needs no network: text, tables and figures in a single file of HTML.

use std::fmt::Write as _;

use super::BenchError;
use crate::chart::{self, Chart};

/// Looks: readable in both colour schemes of a browser; figures stay on white.
const STYLE: &str = "
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.25rem;margin-top:2.5rem;border-bottom:1px solid #8886}
figure{margin:1.5rem 0}figure svg{width:100%;height:auto;background:#fff}
figcaption{font-size:.95rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{border:1px solid #8886;padding:.25rem .5rem;text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
.bad{color:#b00020;font-weight:600}
nav a{margin-right:1rem}
";

/// A page that grows.
#[derive(Debug)]
pub(super) struct Html {
    title: String,
    body: String,
    sections: Vec<String>,
}

impl Html {
    /// An empty page.
    pub(super) fn new(title: &str) -> Self {
        Html { title: title.to_owned(), body: String::new(), sections: Vec::new() }
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        self.body.write_fmt(text).expect("text in memory can be written to");
    }

    /// A heading that the page's head leads to.
    pub(super) fn section(&mut self, title: &str) {
        let place = self.sections.len();
        self.push(format_args!("<h2 id=\"s{place}\">{}</h2>\n", escaped(title)));
        // The part before a colon is enough to find it by.
        self.sections.push(title.split(':').next().unwrap_or(title).to_owned());
    }

    /// A paragraph.
    pub(super) fn text(&mut self, text: &str) {
        self.push(format_args!("<p>{}</p>\n", escaped(text)));
    }

    /// A paragraph that warns.
    pub(super) fn warning(&mut self, text: &str) {
        self.push(format_args!("<p class=\"bad\">{}</p>\n", escaped(text)));
    }

    /// A figure with what it shows.
    pub(super) fn figure(&mut self, chart: &Chart, caption: &str) -> Result<(), BenchError> {
        let svg = chart::to_svg(chart)
            .map_err(|fault| BenchError::Figure { title: chart.title.clone(), fault: fault.to_string() })?;
        // Only its size decides how wide it is shown.
        let svg = svg.replacen("<svg width=\"1600\" height=\"900\"", "<svg role=\"img\"", 1);
        self.push(format_args!("<figure>{svg}<figcaption>{}</figcaption></figure>\n", escaped(caption)));
        Ok(())
    }

    /// A table; `bad` cells are marked.
    pub(super) fn table(&mut self, head: &[String], rows: &[Vec<String>]) {
        let cells = |row: &[String], tag: &str| {
            row.iter().fold(String::new(), |mut line, cell| {
                let class = if cell == "missed" || cell == "no" { " class=\"bad\"" } else { "" };
                write!(line, "<{tag}{class}>{}</{tag}>", escaped(cell)).expect("text in memory can be written to");
                line
            })
        };
        self.push(format_args!("<div class=\"wide\"><table><thead><tr>{}</tr></thead><tbody>\n", cells(head, "th")));
        for row in rows {
            self.push(format_args!("<tr>{}</tr>\n", cells(row, "td")));
        }
        self.push(format_args!("</tbody></table></div>\n"));
    }

    /// The whole file.
    pub(super) fn finish(self) -> String {
        let title = escaped(&self.title);
        let links = self.sections.iter().enumerate().fold(String::new(), |mut links, (place, section)| {
            write!(links, "<a href=\"#s{place}\">{}</a>", escaped(section)).expect("text in memory can be written to");
            links
        });
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n\
             <body>\n<h1>{title}</h1>\n<nav>{links}</nav>\n{}</body>\n</html>\n",
            self.body
        )
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup_and_sections_are_led_to() {
        let mut page = Html::new("a < b");
        page.section("first: the one");
        page.text("<script>alert(1)</script>");
        page.table(&["x".to_owned()], &[vec!["missed".to_owned()]]);
        let text = page.finish();
        assert!(text.contains("<title>a &lt; b</title>") && !text.contains("<script>"), "{text}");
        assert!(text.contains("<a href=\"#s0\">first</a>") && text.contains("<h2 id=\"s0\">first: the one</h2>"));
        assert!(text.contains("<td class=\"bad\">missed</td>"));
        for elsewhere in ["http:", "https:", "src="] {
            assert!(!text.contains(elsewhere), "it needs nothing from elsewhere");
        }
    }
}
