//! Curves as SVG: how costs grow, and how they are spread.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

/// The plot's size in points.
const SIZE: (u32, u32) = (760, 420);
/// Colours that people with the common kinds of colour blindness can distinguish (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// How an axis is divided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    /// Evenly from 0.
    Linear,
    /// By powers of ten.
    Logarithmic,
}

/// One curve.
#[derive(Clone, PartialEq, Debug)]
pub struct Curve {
    /// Its label.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
}

/// Curves over the same two axes.
#[derive(Clone, PartialEq, Debug)]
pub struct Plot {
    /// What it shows.
    pub title: String,
    /// The label of the x axis, with its unit.
    pub x: String,
    /// The scale of the x axis.
    pub x_scale: Scale,
    /// The label of the y axis, with its unit.
    pub y: String,
    /// The scale of the y axis.
    pub y_scale: Scale,
    /// The curves; those without points are omitted.
    pub curves: Vec<Curve>,
}

impl Plot {
    /// Whether there is nothing to draw.
    pub fn is_empty(&self) -> bool {
        self.curves.iter().all(|curve| curve.points.is_empty())
    }

    /// Draws it into a file.
    pub fn draw(&self, file: &Path) -> Result<()> {
        let all = || self.curves.iter().flat_map(|curve| &curve.points);
        let (x, y) = (
            range(self.x_scale, all().map(|point| point.0)),
            range(self.y_scale, all().map(|point| point.1)),
        );
        let drawn = match (self.x_scale, self.y_scale) {
            (Scale::Linear, Scale::Linear) => self.draw_on(file, x.0..x.1, y.0..y.1),
            (Scale::Linear, Scale::Logarithmic) => self.draw_on(file, x.0..x.1, (y.0..y.1).log_scale()),
            (Scale::Logarithmic, Scale::Linear) => self.draw_on(file, (x.0..x.1).log_scale(), y.0..y.1),
            (Scale::Logarithmic, Scale::Logarithmic) => {
                self.draw_on(file, (x.0..x.1).log_scale(), (y.0..y.1).log_scale())
            }
        };
        drawn.with_context(|| format!("drawing {}", file.display()))
    }

    fn draw_on<X, Y>(&self, file: &Path, x: X, y: Y) -> Result<()>
    where
        X: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let area = SVGBackend::new(file, SIZE).into_drawing_area();
        // plotters' errors borrow the backend, so only their text is kept.
        let owned = |error: &dyn std::error::Error| anyhow!("{error}");
        area.fill(&WHITE).map_err(|error| owned(&error))?;
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(x, y)
            .map_err(|error| owned(&error))?;
        chart
            .configure_mesh()
            .x_desc(&self.x)
            .y_desc(&self.y)
            .light_line_style(WHITE)
            .x_label_formatter(&label)
            .y_label_formatter(&label)
            .draw()
            .map_err(|error| owned(&error))?;
        let curves = self.curves.iter().filter(|curve| !curve.points.is_empty());
        for (curve, colour) in curves.zip(COLOURS.iter().cycle()) {
            let style = colour.stroke_width(2);
            chart
                .draw_series(LineSeries::new(curve.points.iter().copied(), style).point_size(3))
                .map_err(|error| owned(&error))?
                .label(&curve.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()
            .map_err(|error| owned(&error))?;
        area.present().map_err(|error| owned(&error))
    }
}

/// The range of an axis.
fn range(scale: Scale, values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) =
        values.fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
    match scale {
        // Space above for the legend.
        Scale::Linear => (0.0, if high > 0.0 { high * 1.25 } else { 1.0 }),
        Scale::Logarithmic => {
            let low = if low.is_finite() && low > 0.0 { low } else { 1.0 };
            (low / 1.2, high.max(low) * 2.0)
        }
    }
}

/// The shortest form of a number.
fn label(value: &f64) -> String {
    match *value {
        value if value >= 1e6 => format!("{}M", value / 1e6),
        value if value >= 1e4 => format!("{}k", value / 1e3),
        value if value >= 10.0 || value == value.trunc() => format!("{value:.0}"),
        value => format!("{value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scale_draws_every_curve() {
        let folder = tempfile::tempdir().unwrap();
        let curve =
            |name: &str, points: &[(f64, f64)]| Curve { name: name.to_owned(), points: points.into() };
        for (x_scale, y_scale) in [
            (Scale::Linear, Scale::Linear),
            (Scale::Linear, Scale::Logarithmic),
            (Scale::Logarithmic, Scale::Linear),
            (Scale::Logarithmic, Scale::Logarithmic),
        ] {
            let plot = Plot {
                title: "Verdicts".to_owned(),
                x: "policies".to_owned(),
                x_scale,
                y: "ns".to_owned(),
                y_scale,
                curves: vec![
                    curve("hundred pods", &[(1.0, 30.0), (1_000.0, 60.0)]),
                    curve("no pods", &[]),
                    curve("thousand pods", &[(1.0, 40.0), (1_000.0, 90.0)]),
                ],
            };
            let file = folder.path().join("plot.svg");
            plot.draw(&file).unwrap();
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{text}");
            for label in ["Verdicts", "hundred pods", "thousand pods", "policies", "ns"] {
                assert!(text.contains(label), "{label} in {text}");
            }
            assert!(!text.contains("no pods") && !text.contains("NaN"), "{text}");
            assert!(text.matches("<polyline").count() >= 2, "{text}");
        }
    }

    #[test]
    fn labels_are_short() {
        let cases = [(0.0, "0"), (0.5, "0.5"), (7.0, "7"), (150.0, "150"), (10_000.0, "10k"), (2e6, "2M")];
        for (value, text) in cases {
            assert_eq!(label(&value), text);
        }
    }
}
