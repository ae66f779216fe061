//! One row's product on several threads: bands of lines, of positions where there is one line, of outputs where there is one position.
//!
//! Each thread writes a part of the output that is one run of memory, so that parts are split off as slices and nothing is locked. A band
//! computes what the whole would have: sums are the same to the bit, unless a band ends with a smaller tile.

use rayon::prelude::*;

use super::{
    kernel::{Added, Product, Walk},
    packed::PANEL,
};

impl Product<'_> {
    /// Runs the product of a single row in as many bands as there are threads.
    pub(super) fn shared_out(self, threads: usize) {
        let bands = match (self.positions, self.positions / self.across) {
            (1, _) => self.of_panels(threads),
            (_, 1) => self.turned().of_lines(threads),
            _ => self.of_lines(threads),
        };
        bands.into_par_iter().for_each(Product::run);
    }

    /// A single line as a column: lines of one position each.
    fn turned(self) -> Self {
        let turned = |walk: Walk| Walk { y: walk.x, ..walk };
        Product {
            from: turned(self.from),
            across: 1,
            added: self.added.map(|added| Added { walk: turned(added.walk), ..added }),
            to: turned(self.to),
            ..self
        }
    }

    fn of_lines(self, threads: usize) -> Vec<Self> {
        let lines = self.positions / self.across;
        let count = lines.min(threads);
        let begin = |band: usize| band * lines / count;
        let later = |walk: Walk, line: usize| Walk { start: walk.start + line * walk.y, ..walk };
        let (mut rest, mut taken) = (self.output, 0);
        let mut bands = Vec::with_capacity(count);
        for band in 0..count {
            let (first, next) = (begin(band), begin(band + 1));
            // Up to where the next band's first line begins; the last band takes what is left.
            let end = if next == lines { taken + rest.len() } else { later(self.to, next).start };
            let (output, after) = rest.split_at_mut(end - taken);
            let to = later(self.to, first);
            bands.push(Product {
                from: later(self.from, first),
                added: self.added.map(|added| Added { walk: later(added.walk, first), ..added }),
                to: Walk { start: to.start - taken, ..to },
                positions: (next - first) * self.across,
                panels: self.panels.clone(),
                output,
                ..self
            });
            (rest, taken) = (after, end);
        }
        bands
    }

    /// Of a single position: the next one's first outputs lie behind its last.
    fn of_panels(self, threads: usize) -> Vec<Self> {
        let all = self.panels.len();
        let count = threads.min(all);
        let (mut rest, mut taken) = (self.output, 0);
        let mut bands = Vec::with_capacity(count);
        for band in 0..count {
            let panels = band * all / count..(band + 1) * all / count;
            let end = if panels.end == all { taken + rest.len() } else { self.to.start + panels.end * PANEL };
            let (output, after) = rest.split_at_mut(end - taken);
            let start = (self.to.start + panels.start * PANEL) - taken;
            bands.push(Product { panels, output, to: Walk { start, ..self.to }, ..self });
            (rest, taken) = (after, end);
        }
        bands
    }
}
