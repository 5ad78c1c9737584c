//! A monitor as a linear function of the knobs, by least squares over a sliding window; in integers, so that every machine fits the
//! same.

use std::collections::VecDeque;

/// Samples kept; one more and the oldest [`DROP`] go.
const WINDOW: usize = 256;
const DROP: usize = 64;
/// A knob's whole range; 0 is its lowest.
pub const RANGE: i64 = 1024;
/// Fixed point of a coefficient: 1 << 20 = 1 unit of the monitor per unit of a knob.
const ONE: i128 = 1 << 20;

/// One monitor over two knobs: `c0 + c1 x1 + c2 x2`.
#[derive(Debug, Default)]
pub struct Line {
    samples: VecDeque<([i64; 2], i64)>,
    /// Times [`ONE`]; `None`: not trained yet.
    coefficients: Option<[i128; 3]>,
}

impl Line {
    /// A reading with the knobs at these places, 0 to [`RANGE`].
    pub fn add(&mut self, knobs: [i64; 2], value: i64) {
        if self.samples.len() == WINDOW {
            self.samples.drain(..DROP);
        }
        self.samples.push_back((knobs, value));
    }

    /// Samples kept.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// What was learned is void: the surroundings are others.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether it can predict.
    pub fn trained(&self) -> bool {
        self.coefficients.is_some()
    }

    /// Fits anew. Where the samples do not determine all coefficients (a knob has not moved) what was learned before stays; false
    /// if nothing was. A knob that cannot move (`fixed`) has no coefficient.
    pub fn train(&mut self, fixed: [bool; 2]) -> bool {
        // Normal equations A c = b with rows (1, x1, x2); Cramer's rule. The largest product is below 2^110 for values
        // below 2^40.
        let (mut a, mut b) = ([[0_i128; 3]; 3], [0_i128; 3]);
        for ([x1, x2], y) in &self.samples {
            let row = [1, i128::from(*x1), i128::from(*x2)];
            for i in 0..3 {
                for j in 0..3 {
                    a[i][j] += row[i] * row[j];
                }
                b[i] += row[i] * i128::from(*y);
            }
        }
        for i in [1, 2] {
            if fixed[i - 1] {
                (0..3).for_each(|j| (a[i][j], a[j][i]) = (0, 0));
                (a[i][i], b[i]) = (1, 0);
            }
        }
        let whole = determinant(&a);
        if whole != 0 {
            let coefficient = |column: usize| {
                let mut with = a;
                (0..3).for_each(|i| with[i][column] = b[i]);
                scaled(determinant(&with), whole)
            };
            self.coefficients = Some([coefficient(0), coefficient(1), coefficient(2)]);
        }
        self.trained()
    }

    /// The monitor at a place given in [`Place`] units.
    pub fn at(&self, x: [Place; 2]) -> Option<i128> {
        let [c0, c1, c2] = self.coefficients?;
        Some((c0 + ((c1 * i128::from(x[0].0)) >> 16) + ((c2 * i128::from(x[1].0)) >> 16)) / ONE)
    }

    /// Its change over the whole range of each knob.
    pub fn slope(&self) -> Option<[i128; 2]> {
        let [_, c1, c2] = self.coefficients?;
        Some([c1 * i128::from(RANGE) / ONE, c2 * i128::from(RANGE) / ONE])
    }
}

/// A knob's place in 1/65536 of its unit: [`RANGE`] units are the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(pub i64);

impl Place {
    /// Of a whole unit.
    pub fn of(unit: i64) -> Self {
        Self(unit << 16)
    }
}

/// `a / b` times [`ONE`], split so that it does not overflow.
fn scaled(a: i128, b: i128) -> i128 {
    a / b * ONE + (a % b).checked_mul(ONE).map_or_else(|| a % b / (b / ONE).max(1), |r| r / b)
}

fn determinant(m: &[[i128; 3]; 3]) -> i128 {
    let minor = |r: [usize; 2], c: [usize; 2]| m[r[0]][c[0]] * m[r[1]][c[1]] - m[r[0]][c[1]] * m[r[1]][c[0]];
    m[0][0] * minor([1, 2], [1, 2]) - m[0][1] * minor([1, 2], [0, 2]) + m[0][2] * minor([1, 2], [0, 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plane(knobs: [i64; 2]) -> i64 {
        700 - 3 * knobs[0] + 5 * knobs[1]
    }

    fn fitted(count: i64) -> Line {
        let mut line = Line::default();
        for i in 0..count {
            let knobs = [i * 37 % 1025, i * 91 % 1025];
            line.add(knobs, plane(knobs));
        }
        line
    }

    #[test]
    fn a_plane_is_found_exactly() {
        let mut line = fitted(20);
        assert!(!line.trained() && line.train([false; 2]));
        for knobs in [[0, 0], [1024, 0], [0, 1024], [512, 100]] {
            assert_eq!(line.at(knobs.map(Place::of)), Some(i128::from(plane(knobs))), "{knobs:?}");
        }
        assert_eq!(line.slope(), Some([-3 * 1024, 5 * 1024]));
        // Large values do not overflow: 10^12 a second.
        let mut large = Line::default();
        for i in 0..256 {
            let knobs = [i * 37 % 1025, i * 91 % 1025];
            large.add(knobs, 1_000_000_000_000 - 900_000_000 * knobs[0]);
        }
        assert!(large.train([false; 2]));
        let got = large.at([Place::of(1000), Place::of(0)]).unwrap();
        assert!((got - 100_000_000_000).abs() < 1000, "{got}");
    }

    #[test]
    fn a_knob_that_does_not_move_teaches_nothing() {
        let mut line = Line::default();
        (0..20).for_each(|i| line.add([i * 50, 512], plane([i * 50, 512])));
        assert!(!line.train([false; 2]), "the second knob stood still");
        assert!(line.train([false, true]), "but if it cannot move");
        assert_eq!(line.slope(), Some([-3 * 1024, 0]));
        let mut known = fitted(20);
        known.train([false; 2]);
        let before = known.slope();
        (0..1000).for_each(|_| known.add([512, 512], 0));
        assert!(known.train([false; 2]));
        assert_eq!(known.slope(), before, "what was learned stays");
    }

    #[test]
    fn the_window_slides_by_sixty_four() {
        assert_eq!([256, 257, 320, 321].map(|n| fitted(n).len()), [256, 193, 256, 193]);
    }
}
