//! Curves through measured rows: latency `a + b/f`, power `p0 + p1 f + p3 f^3`; each with its errors.
//!
//! Least squares of the relative error, so that slow and fast rows count alike.

use serde::Serialize;

/// `latency = a + b / f`: a part that the clock does not touch, and one that it does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LatencyFit {
    /// ms
    pub a_ms: f64,
    /// ms GHz
    pub b_ms_ghz: f64,
    /// How far the curve lies from the rows it was built from.
    pub error: FitError,
}

/// Power of a board over its clock: `p0 + p1 f + p3 f^3`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PowerFit {
    /// mW; mW/GHz; mW/GHz^3.
    pub terms: [f64; 3],
    /// How far the curve lies from the rows it was built from.
    pub error: FitError,
}

/// Relative errors of a curve over rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct FitError {
    /// The largest, as a share.
    pub worst: f64,
    /// Root of the mean square, as a share.
    pub rms: f64,
    /// Rows.
    pub rows: usize,
}

impl FitError {
    /// Of `curve` over rows of (f, measured).
    #[expect(clippy::cast_precision_loss, reason = "a few rows")]
    pub fn of(curve: impl Fn(f64) -> f64, rows: &[(f64, f64)]) -> Self {
        let errors = rows.iter().map(|&(f, y)| (curve(f) / y - 1.0).abs());
        let (worst, squares) = errors.fold((0.0_f64, 0.0), |(w, s), e| (w.max(e), s + e * e));
        Self { worst, rms: (squares / rows.len().max(1) as f64).sqrt(), rows: rows.len() }
    }
}

impl LatencyFit {
    /// Through rows of (MHz, ms). `None` for fewer than two clocks. A negative part is set to 0.
    pub fn through(rows: &[(f64, f64)]) -> Option<Self> {
        let ghz: Vec<(f64, f64)> = rows.iter().map(|&(mhz, ms)| (mhz / 1000.0, ms)).collect();
        let [a, b] = least_squares(&ghz, [|_| 1.0, |f: f64| 1.0 / f])?;
        let (a, b) = if a < 0.0 { (0.0, only(&ghz, |f| 1.0 / f)) } else { (a, b) };
        let error = FitError::of(|f| a + b / f, &ghz);
        Some(Self { a_ms: a, b_ms_ghz: b, error })
    }

    /// At a clock, ms.
    pub fn at(&self, mhz: f64) -> f64 {
        self.a_ms + self.b_ms_ghz * 1000.0 / mhz
    }
}

impl PowerFit {
    /// Through rows of (MHz, mW). `None` for fewer than three clocks.
    pub fn through(rows: &[(f64, f64)]) -> Option<Self> {
        let ghz: Vec<(f64, f64)> = rows.iter().map(|&(mhz, mw)| (mhz / 1000.0, mw)).collect();
        let terms = least_squares(&ghz, [|_| 1.0, |f: f64| f, |f: f64| f * f * f])?;
        let mut fit = Self { terms, error: FitError::default() };
        fit.error = FitError::of(|ghz| fit.at(ghz * 1000.0), &ghz);
        Some(fit)
    }

    /// At a clock, mW.
    pub fn at(&self, mhz: f64) -> f64 {
        let f = mhz / 1000.0;
        self.terms[0] + self.terms[1] * f + self.terms[2] * f * f * f
    }
}

/// Fits one half of the rows and asks the other, both ways: the error on rows left out.
pub fn left_out<C>(
    rows: &[(f64, f64)],
    fit: impl Fn(&[(f64, f64)]) -> Option<C>,
    at: impl Fn(&C, f64) -> f64,
) -> Option<FitError> {
    let half = |odd: usize| -> Vec<(f64, f64)> { rows.iter().skip(odd).step_by(2).copied().collect() };
    let (even, odd) = (half(0), half(1));
    let (by_even, by_odd) = (fit(&even)?, fit(&odd)?);
    let one = FitError::of(|f| at(&by_even, f), &odd);
    let other = FitError::of(|f| at(&by_odd, f), &even);
    #[expect(clippy::cast_precision_loss, reason = "a few rows")]
    let weighted = |e: &FitError| e.rms * e.rms * e.rows as f64;
    #[expect(clippy::cast_precision_loss, reason = "a few rows")]
    let rms = ((weighted(&one) + weighted(&other)) / rows.len().max(1) as f64).sqrt();
    Some(FitError { worst: one.worst.max(other.worst), rms, rows: rows.len() })
}

/// Weights of base functions that bring `sum w_i g_i(x)` nearest to y, relatively: the normal equations
/// by elimination with pivoting.
fn least_squares<const N: usize>(rows: &[(f64, f64)], base: [fn(f64) -> f64; N]) -> Option<[f64; N]> {
    let (mut m, mut r) = ([[0.0; N]; N], [0.0; N]);
    for &(x, y) in rows {
        let g = base.map(|g| g(x) / y);
        for (row, (right, gi)) in m.iter_mut().zip(r.iter_mut().zip(g)) {
            *right += gi;
            row.iter_mut().zip(g).for_each(|(cell, gj)| *cell += gi * gj);
        }
    }
    for i in 0..N {
        let pivot = (i..N).max_by(|&p, &q| m[p][i].abs().total_cmp(&m[q][i].abs()))?;
        // Fewer clocks than terms.
        if m[pivot][i].abs() < 1e-15 {
            return None;
        }
        m.swap(i, pivot);
        r.swap(i, pivot);
        for k in i + 1..N {
            let (part, above) = (m[k][i] / m[i][i], m[i]);
            m[k].iter_mut().zip(above).for_each(|(cell, a)| *cell -= part * a);
            r[k] -= part * r[i];
        }
    }
    for i in (0..N).rev() {
        let known: f64 = (i + 1..N).map(|j| m[i][j] * r[j]).sum();
        r[i] = (r[i] - known) / m[i][i];
    }
    r.iter().all(|w| w.is_finite()).then_some(r)
}

fn only(rows: &[(f64, f64)], base: fn(f64) -> f64) -> f64 {
    least_squares(rows, [base]).map_or(0.0, |[w]| w)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_rows_give_their_own_curve() {
        let rows: Vec<_> = [200.0, 500.0, 1000.0].iter().map(|f| (*f, 7.0 + 30_000.0 / f)).collect();
        let fit = LatencyFit::through(&rows).unwrap();
        assert!((fit.a_ms - 7.0).abs() < 1e-6 && (fit.b_ms_ghz - 30.0).abs() < 1e-6, "{fit:?}");
        assert!(fit.error.worst < 1e-9);
        let power: Vec<_> =
            [200.0, 500.0, 800.0, 1000.0].iter().map(|f| (*f, 3000.0 + 5.0 * f + f * f * f * 2e-6)).collect();
        let fit = PowerFit::through(&power).unwrap();
        assert!((fit.terms[0] - 3000.0).abs() < 1e-3 && (fit.terms[2] - 2000.0).abs() < 1e-3, "{fit:?}");
    }

    #[test]
    fn too_few_clocks_are_no_curve() {
        assert_eq!(LatencyFit::through(&[(500.0, 3.0), (500.0, 3.0)]), None);
        assert_eq!(PowerFit::through(&[(500.0, 3.0), (600.0, 4.0)]), None);
    }

    #[test]
    fn a_curve_that_would_pay_for_standing_still_gets_no_constant_part() {
        let fit = LatencyFit::through(&[(500.0, 9.0), (1000.0, 4.0)]).unwrap();
        assert_eq!(fit.a_ms, 0.0);
    }

    #[test]
    fn rows_left_out_show_an_outlier() {
        let mut rows: Vec<_> =
            (1..=10).map(|i| f64::from(i) * 100.0).map(|f| (f, 5.0 + 20_000.0 / f)).collect();
        let fit = |r: &[(f64, f64)]| LatencyFit::through(r);
        assert!(left_out(&rows, fit, LatencyFit::at).unwrap().worst < 1e-9);
        rows[4].1 *= 1.3;
        assert!(left_out(&rows, fit, LatencyFit::at).unwrap().worst > 0.2);
    }
}
