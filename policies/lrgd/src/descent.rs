//! Gradient descent with back-tracking: less of every knob as long as the bounded monitor holds its bound.

use super::line::{Line, Place};

/// Step per watt of slope over a knob's range, ranges: PRiME's alpha.
const ALPHA: i128 = 100;
/// Rounds after which it stops in any case; a round at least halves a step or moves a knob.
const ROUNDS: usize = 100_000;

/// The least of `power` (mW) found from `from` downwards with `perf` above `bound`; no knob below `least`. `None`: a model is not
/// trained, or the bound does not hold at `from`.
pub fn descend(
    power: &Line,
    perf: &Line,
    bound: i128,
    from: [Place; 2],
    least: [Place; 2],
) -> Option<[Place; 2]> {
    let slope = power.slope()?;
    if perf.at(from)? < bound {
        return None;
    }
    let mut x = from;
    // In 1/65536 of a knob's unit: |slope| W per range x alpha x 1024 units.
    let mut step = slope.map(|s| s.abs() * ALPHA * 1024 * 65536 / 1000);
    for _ in 0..ROUNDS {
        let mut next = x;
        for i in 0..2 {
            while step[i] > 0 && i128::from(x[i].0) - step[i] < i128::from(least[i].0) {
                step[i] /= 2;
            }
            next[i] = Place(x[i].0 - i64::try_from(step[i]).unwrap_or(0));
        }
        if step == [0, 0] {
            break;
        }
        if perf.at(next)? > bound {
            x = next;
        } else {
            step = step.map(|s| s / 2);
        }
    }
    Some(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::RANGE;

    /// `c0 + c1 x1 + c2 x2`, trained.
    fn line(c: [i64; 3]) -> Line {
        let mut line = Line::default();
        for x in [[0, 0], [RANGE, 0], [0, RANGE], [RANGE, RANGE]] {
            line.add(x, c[0] + c[1] * x[0] + c[2] * x[1]);
        }
        assert!(line.train([false; 2]));
        line
    }

    const TOP: [Place; 2] = [Place(RANGE << 16), Place(RANGE << 16)];
    const BOTTOM: [Place; 2] = [Place(0), Place(0)];

    #[test]
    fn with_room_everything_goes_to_its_least() {
        let found =
            descend(&line([200, 1, 2]), &line([5000, -1, 4]), 100, TOP, [Place::of(300), Place(0)]).unwrap();
        let units = found.map(|p| p.0 >> 16);
        assert!((300..=301).contains(&units[0]) && units[1] == 0, "{units:?}");
    }

    #[test]
    fn it_stops_at_the_bound() {
        // The first knob may fall to 0; then 1000 + 4 x2 = 3000 at 500.
        let found = descend(&line([200, 1, 2]), &line([1000, 0, 4]), 3000, TOP, BOTTOM).unwrap();
        assert!((499..=502).contains(&(found[1].0 >> 16)), "{found:?}");
        let perf = line([1000, 0, 4]).at(found).unwrap();
        assert!(perf >= 3000, "{perf}");
    }

    #[test]
    fn a_bound_that_does_not_hold_at_the_start_is_told() {
        assert_eq!(descend(&line([200, 1, 2]), &line([0, 0, 1]), 1025, TOP, BOTTOM), None);
        assert_eq!(descend(&Line::default(), &line([0, 0, 1]), 0, TOP, BOTTOM), None);
        // Nothing to gain: it stays.
        assert_eq!(descend(&line([200, 0, 0]), &line([0, 0, 1]), 0, TOP, BOTTOM), Some(TOP));
    }
}
