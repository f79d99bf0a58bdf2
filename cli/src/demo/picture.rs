//! Digits as pictures for a terminal.

use batchfleet_loadgen::digits::Digit;

/// Pixels of one line, and lines.
const SIDE: usize = 8;
/// Pictures beside each other: four fit 80 columns.
const ACROSS: usize = 4;
/// From white to black; pixels go from 0 to 16.
const SHADES: [&str; 5] = ["  ", "░░", "▒▒", "▓▓", "██"];

/// Draws digits, each over what it was taken for.
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
    fn draws_each_digit_over_what_it_was_taken_for() {
        let mut pixels = [0.0; 64];
        pixels[0] = 16.0;
        let digit = Digit { label: 7, pixels, expected: [0.1; 10] };
        let drawn = row(&[(digit.clone(), 7), (digit, 1)]);
        let lines: Vec<_> = drawn.lines().collect();
        assert!(lines[0].starts_with("██  "), "{drawn}");
        assert!(lines[8].contains("\"7\" right") && lines[8].contains("\"1\" wrong"), "{drawn}");
    }
}
