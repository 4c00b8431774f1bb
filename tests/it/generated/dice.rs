//! Chance that comes from a seed, so that what it did can be done again.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::harness::postgres::{quoted, quoted_text};

/// What names and texts are made of: letters of many scripts, and everything that means something to somebody.
const PIECES: [&str; 28] = [
    "a", "Z", "order", "select", "NULL", " ", "  ", "\"", "'", "''", "\\", "\\n", "\\.", ".", ",",
    ";", "--", "/*", "$$", "%", "{", "}", "(", "ü", "ß", "名前", "🐘", "שלום",
];
/// A name may have 63 bytes; the number that makes it the only one of its kind stands at its end.
const NAME_BYTES_MAX: usize = 63;

pub struct Dice {
    random: StdRng,
    names: usize,
}

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            names: 0,
        }
    }

    /// From 0 to `most`.
    pub fn up_to(&mut self, most: usize) -> usize {
        self.random.random_range(0..=most)
    }

    /// Whether something happens that happens so often.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.up_to(99) < percent
    }

    pub fn one_of<'a, T: ?Sized>(&mut self, choice: &[&'a T]) -> &'a T {
        choice[self.up_to(choice.len() - 1)]
    }

    pub fn bits(&mut self) -> u64 {
        self.random.random()
    }

    /// A quoted name that nothing else in the database has: mostly a plain one, often an odd one, sometimes the longest.
    pub fn name(&mut self) -> String {
        self.names += 1;
        let end = format!("_{}", self.names);
        let mut name = match self.up_to(9) {
            0..=4 => self
                .one_of(&["item", "Wert", "table", "user", "group"])
                .to_owned(),
            5..=8 => self.pieces(4),
            _ => self.pieces(40),
        };
        let mut keep = name.len().min(NAME_BYTES_MAX - end.len());
        while !name.is_char_boundary(keep) {
            keep -= 1;
        }
        name.truncate(keep);
        quoted(&(name + &end))
    }

    /// A quoted text: empty, short, or long enough to be stored out of line.
    pub fn text(&mut self) -> String {
        let text = match self.up_to(19) {
            0 => String::new(),
            1 => self.pieces(12).repeat(400),
            2 => format!("{}\n\r\t{}", self.pieces(3), self.pieces(3)),
            _ => self.pieces(8),
        };
        quoted_text(&text)
    }

    pub fn pieces(&mut self, most: usize) -> String {
        (0..=self.up_to(most))
            .map(|_| self.one_of(&PIECES))
            .collect()
    }
}
