//! Draws digits in a terminal.

use batchfleet_loadgen::digits::Digit;

/// Width and height of a digit in pixels.
const SIDE: usize = 8;
/// Pictures per row: four fit into 80 columns.
const ACROSS: usize = 4;
/// Shades from white (0) to black (16).
const SHADES: [&str; 5] = ["  ", "░░", "▒▒", "▓▓", "██"];

/// Draws digits, each above the class that the model answered.
pub(super) fn row(pictures: &[(Digit, usize)]) -> String {
    pictures.chunks(ACROSS).map(strip).collect()
}

fn strip(pictures: &[(Digit, usize)]) -> String {
    let mut text = String::new();
    for line in 0..SIDE {
        for (digit, _) in pictures {
            let pixels = &digit.pixels[line * SIDE..(line + 1) * SIDE];
            text.extend(pixels.iter().map(|&pixel| shade(pixel)));
            text.push_str("   ");
        }
        text.push('\n');
    }
    let captions = pictures.iter().map(|(digit, class)| {
        let verdict = if digit.label == *class { "right" } else { "wrong" };
        format!("{:^19}", format!("\"{class}\" {verdict}"))
    });
    text.extend(captions);
    text + "\n\n"
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=16")]
fn shade(pixel: f32) -> &'static str {
    SHADES[pixel.clamp(0.0, 16.0) as usize / 4]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digit_is_drawn_above_its_class() {
        let mut pixels = [0.0; 64];
        pixels[0] = 16.0;
        let digit = Digit { label: 7, pixels, expected: [0.1; 10] };
        let drawn = row(&[(digit.clone(), 7), (digit, 1)]);
        let lines: Vec<_> = drawn.lines().collect();
        assert!(lines[0].starts_with("██  "), "{drawn}");
        assert!(lines[8].contains("\"7\" right") && lines[8].contains("\"1\" wrong"), "{drawn}");
    }
}
