//! Pixels of one phantom chest radiograph. Owns projection, findings and noise; what is there to be drawn comes from
//! the [`Scene`], and no finding or device is added here.
//!
//! Body coordinates: x and y run from -1 to 1 over the picture, y downwards, and one unit stands for 125 mm. The
//! patient's right is at negative x, the image's left. Only + - * / and sqrt are used on floats, no libm function,
//! so that every IEEE machine rounds to the same bytes.

use super::anatomy::{Body, Stroke, strokes};
use super::random::uniform;
use super::scene::{Extent, Finding, Grade, Inspiration, Scene, Side, Zone};
use super::shape::{View, below, blob, falloff, fraction, grain, segment};
use super::study::GrayImage;
use rand_chacha::ChaCha8Rng;

/// Millimetres per unit of body coordinates.
const MM: f32 = 125.0;
/// Nodes along one edge of the texture lattice.
const LATTICE: usize = 14;
/// Findings drawn in one study at most; fixes how many random numbers their jitter takes.
const SLOTS: usize = 4;

/// Everything that one pixel's value depends on.
struct Phantom<'a> {
    body: &'a Body,
    scene: &'a Scene,
    strokes: Vec<Stroke>,
    texture: [[f32; LATTICE]; LATTICE],
    /// Numbers in -1..1 that place each finding within its zone.
    jitter: [[f32; 3]; SLOTS],
    /// Dome height on the patient's right and left.
    dome: [f32; 2],
    /// Centre and radii of the heart.
    heart: [f32; 4],
    /// Width of one pixel: the softness of a sharp edge.
    pixel: f32,
}

/// Draws one study: `size` x `size` pixels.
pub(super) fn draw(body: &Body, scene: &Scene, size: u32, rng: &mut ChaCha8Rng) -> GrayImage {
    let size = size.max(1);
    let view = View::new(rng);
    let texture = std::array::from_fn(|_| std::array::from_fn(|_| uniform(rng, -1.0, 1.0)));
    let jitter = std::array::from_fn(|_| std::array::from_fn(|_| uniform(rng, -1.0, 1.0)));
    let phantom = Phantom::new(body, scene, texture, jitter, 2.0 / size as f32);
    let mut pixels = Vec::with_capacity(size as usize * size as usize);
    for row in 0..size {
        for column in 0..size {
            let u = (column as f32 + 0.5) * phantom.pixel - 1.0;
            let v = (row as f32 + 0.5) * phantom.pixel - 1.0;
            let (x, y) = view.body(u, v);
            let value = view.expose(phantom.value(x, y)) + view.noise * grain(rng);
            pixels.push((value * 255.0).clamp(0.0, 255.0) as u8);
        }
    }
    GrayImage { width: size, height: size, pixels }
}

/// Where each finding of a scene shows: x, y, width and height in pixels of the smallest box around what it changes, by
/// a quarter of its largest change or more, when it is the only one. `rng`: as [`draw`] had it.
pub(super) fn boxes(body: &Body, scene: &Scene, size: u32, rng: &mut ChaCha8Rng) -> Vec<[u32; 4]> {
    if scene.findings.is_empty() {
        return Vec::new();
    }
    let size = size.max(1);
    let view = View::new(rng);
    let texture = std::array::from_fn(|_| std::array::from_fn(|_| uniform(rng, -1.0, 1.0)));
    let jitter: [[f32; 3]; SLOTS] = std::array::from_fn(|_| std::array::from_fn(|_| uniform(rng, -1.0, 1.0)));
    let pixel = 2.0 / size as f32;
    let values = |findings: Vec<Finding>, jitter: [f32; 3]| -> Vec<f32> {
        let scene = Scene { findings, ..scene.clone() };
        let phantom = Phantom::new(body, &scene, texture, [jitter; SLOTS], pixel);
        let place = |at: u32| (at as f32 + 0.5) * pixel - 1.0;
        let value = |i: u32| {
            let (x, y) = view.body(place(i % size), place(i / size));
            phantom.value(x, y)
        };
        (0..size * size).map(value).collect()
    };
    let healthy = values(Vec::new(), jitter[0]);
    let of_finding = |(finding, jitter): (&Finding, &[f32; 3])| {
        let changed = values(vec![*finding], *jitter);
        let change: Vec<f32> = changed.iter().zip(&healthy).map(|(a, b)| (a - b).abs()).collect();
        let least = change.iter().copied().fold(0.0, f32::max) / 4.0;
        let (mut low, mut high) = ([size, size], [0, 0]);
        for i in (0..size * size).filter(|&i| change[i as usize] >= least) {
            for (axis, at) in [i % size, i / size].into_iter().enumerate() {
                (low[axis], high[axis]) = (low[axis].min(at), high[axis].max(at + 1));
            }
        }
        [low[0], low[1], high[0] - low[0], high[1] - low[1]]
    };
    scene.findings.iter().zip(&jitter).map(of_finding).collect()
}

impl<'a> Phantom<'a> {
    fn new(
        body: &'a Body,
        scene: &'a Scene,
        texture: [[f32; LATTICE]; LATTICE],
        jitter: [[f32; 3]; SLOTS],
        pixel: f32,
    ) -> Self {
        let breath = match scene.inspiration {
            Inspiration::Low => -0.24,
            Inspiration::Normal => 0.0,
            Inspiration::Deep => 0.16,
        };
        let right = body.dome + breath;
        let grade = scene.findings.iter().find_map(|f| match f {
            Finding::Cardiomegaly(grade) => Some(*grade),
            _ => None,
        });
        let ratio = match grade {
            None => body.heart,
            Some(Grade::Mild) => 0.54,
            Some(Grade::Moderate) => 0.61,
            Some(Grade::Severe) => 0.69,
        };
        // A heart grows more to the left than to the right.
        let radius = ratio * body.wall;
        let border = 0.2 + 0.6 * (radius - 0.33);
        let heart = [radius - border, right - 0.14, radius, 0.28 + 0.4 * (radius - 0.33)];
        let strokes = scene.devices.iter().flat_map(|d| strokes(*d, body, right)).collect();
        Self { body, scene, strokes, texture, jitter, dome: [right, right + body.dome_gap], heart, pixel }
    }

    /// Attenuation at a place, about 0 (air) to 1 (metal).
    fn value(&self, x: f32, y: f32) -> f32 {
        let body = self.body;
        let side = usize::from(x > 0.0);
        let ax = x.abs();
        let noise = self.noise(x, y);
        let torso = below(ax, body.wall + body.flank + 0.04, 0.04);
        let shoulder = below(-0.98 + body.shoulder * (ax - 0.25).max(0.0), y, 0.05);
        let mut value = 0.58 * torso.min(shoulder);

        let wall = self.wall(y);
        let floor = self.floor(side, x);
        let above = below(y, floor, 0.025);
        let heart = self.heart(x, y);
        let middle = 0.13 + 0.02 * noise;
        let knob = blob(x - 0.13, y - self.body.apex - 0.42, 0.11, 0.03);
        let centre = below(ax, middle, 0.03).max(knob).max(heart);
        let lung = below(ax, wall, 0.025) * below(0.12 + 0.14 * (1.0 - self.depth(y)), ax, 0.03) * above;
        let field = lung * (1.0 - centre);
        value -= 0.46 * field * self.air(x, y, wall, noise);
        // Heart and abdomen are a little denser than the chest wall.
        value += 0.05 * centre * above + 0.04 * (1.0 - above) * torso;

        value += 0.075 * self.ribs(ax, y) * below(ax, wall + 0.03, 0.03) * below(y, floor + 0.1, 0.1);
        value += 0.13 * segment(ax, y, [0.09, body.apex + 0.14], [0.85, body.apex - 0.02], 0.028, 0.02);
        let bent = x - self.spine(y);
        let discs = 0.7 + 0.3 * below(0.25, fraction(y / 0.14), 0.2);
        value += 0.14 * discs * below(bent.abs(), 0.075, 0.025);
        value -= 0.13 * below(x.abs(), 0.04, 0.02) * below(y, body.apex + 0.62, 0.05);

        for stroke in &self.strokes {
            let mut cover: f32 = 0.0;
            for pair in stroke.points.windows(2) {
                cover = cover.max(segment(x, y, pair[0], pair[1], stroke.half_width, self.pixel * 0.5));
            }
            value += cover * (1.0 - value);
        }
        value
    }

    /// How much air a place in the lungs holds: 0 none, 1 healthy lung, more in a pneumothorax.
    fn air(&self, x: f32, y: f32, wall: f32, noise: f32) -> f32 {
        let ax = x.abs();
        // Vessels and bronchi thin out from the hilum to the wall.
        let hilum = falloff(ax - 0.2, y - self.zone_y(Zone::Middle), 0.17);
        let vessels = (0.28 * hilum + 0.10 * noise * falloff(ax - 0.2, y, 0.5)).max(0.0);
        let mut tissue = 1.0 - vessels;
        let mut free = 0.0;
        for (finding, jitter) in self.scene.findings.iter().zip(&self.jitter) {
            if let Finding::Pneumothorax(side, extent) = *finding {
                if x * side.sign() <= 0.0 {
                    continue;
                }
                let (gap, collapse) = match extent {
                    Extent::Small => (0.24 * (1.15 - self.depth(y)).max(0.0) + 0.03, 0.95),
                    _ => (0.40, 0.62),
                };
                let edge = wall - gap;
                let open = below(edge, ax, self.pixel * 0.7);
                // The visceral pleura shows as a line of its own.
                tissue *= collapse * (1.0 - 0.5 * below((ax - edge).abs(), 0.018, self.pixel * 0.6));
                free = open;
            } else {
                let left = 1.0 - self.opacity(*finding, *jitter, x, y, noise).clamp(0.0, 1.0);
                tissue *= left;
                // Fluid lies below free air; pneumothoraces come first in a scene.
                if matches!(finding, Finding::Effusion(..)) {
                    free *= left;
                }
            }
        }
        tissue * (1.0 - free) + 1.25 * free
    }

    /// Share of the air that a finding displaces at a place.
    fn opacity(&self, finding: Finding, jitter: [f32; 3], x: f32, y: f32, noise: f32) -> f32 {
        let place = |side: Side, zone: Zone| {
            let out = match zone {
                Zone::Upper => 0.52,
                Zone::Middle => 0.66,
                Zone::Lower => 0.76,
            };
            let cx = side.sign() * self.body.wall * (out + 0.05 * jitter[0]);
            (x - cx, y - self.zone_y(zone) - 0.05 * jitter[1])
        };
        match finding {
            Finding::Effusion(side, extent) if x * side.sign() > 0.0 => {
                // The meniscus: fluid climbs along the chest wall.
                let out = ((x.abs() - 0.15) / (self.body.wall - 0.15)).clamp(0.0, 1.0);
                let (base, rise) = match extent {
                    Extent::Small => (0.16, 0.32),
                    Extent::Moderate => (-0.14, 0.22),
                    Extent::Large => (-0.52, 0.20),
                };
                let dome = self.dome[usize::from(side == Side::Left)];
                below(dome + base + 0.03 * jitter[0] - rise * out * out, y, 0.04)
            }
            Finding::Consolidation(side, zone, extent) => {
                let (dx, dy) = place(side, zone);
                let radius = if extent == Extent::Small { 0.13 } else { 0.23 };
                (0.85 + 0.15 * noise) * blob(dx, dy, radius * (1.0 + 0.25 * noise), 0.06)
            }
            Finding::Nodule(side, zone, mm) => {
                let (dx, dy) = place(side, zone);
                0.95 * blob(dx, dy, mm as f32 / 2.0 / MM, self.pixel * 0.6)
            }
            Finding::Atelectasis(side, zone) => {
                let (dx, dy) = place(side, zone);
                let tilt = 0.05 * jitter[2];
                0.9 * segment(dx, dy, [-0.2, -tilt], [0.2, tilt], 0.025, self.pixel * 0.6)
            }
            Finding::Edema(grade) => {
                let (strength, reach) = if grade == Grade::Severe { (0.78, 0.50) } else { (0.45, 0.34) };
                let haze = falloff(x.abs() - 0.26, (y - self.zone_y(Zone::Middle)) * 0.8, reach);
                strength * (1.0 + 0.3 * noise) * haze + 0.15 * strength
            }
            // Drawn by shape, not by opacity; or on the other side of the chest.
            Finding::Effusion(..) | Finding::Pneumothorax(..) | Finding::Cardiomegaly(_) => 0.0,
        }
    }

    /// 0 at the apex to 1 where the chest is widest.
    fn depth(&self, y: f32) -> f32 {
        ((y - self.body.apex) / 0.85).clamp(0.0, 1.0)
    }

    /// Half the inner width of the chest at a height.
    fn wall(&self, y: f32) -> f32 {
        let up = 1.0 - self.depth(y);
        self.body.wall * (1.0 - up * up).sqrt()
    }

    /// Height of a diaphragm, lowest at the costophrenic angle.
    fn floor(&self, side: usize, x: f32) -> f32 {
        let off = (x.abs() - 0.30) / self.body.wall;
        // A deep breath flattens the dome.
        let curve = if self.scene.inspiration == Inspiration::Deep { 0.25 } else { 0.60 };
        self.dome[side] + curve * off * off
    }

    /// Height of the middle of a lung zone.
    fn zone_y(&self, zone: Zone) -> f32 {
        let share = match zone {
            Zone::Upper => 0.29,
            Zone::Middle => 0.55,
            Zone::Lower => 0.84,
        };
        self.body.apex + share * (self.dome[0] - self.body.apex)
    }

    fn heart(&self, x: f32, y: f32) -> f32 {
        let [cx, cy, rx, ry] = self.heart;
        let (dx, dy) = ((x - cx - 0.2 * (y - cy)) / rx, (y - cy) / ry);
        below(dx * dx + dy * dy, 1.0, 0.12)
    }

    /// Where the spine's midline lies at a height.
    fn spine(&self, y: f32) -> f32 {
        let bow = (1.0 - (y - 0.1) * (y - 0.1) / 0.64).max(0.0);
        self.scene.scoliosis.map_or(0.0, |side| side.sign() * 0.15 * bow)
    }

    /// Ribs: steep behind, and fainter ones rising in front.
    fn ribs(&self, ax: f32, y: f32) -> f32 {
        let body = self.body;
        let back = fraction((y - body.apex - body.rib_slope * ax + 0.45 * ax * ax) / body.rib_gap);
        let front = fraction((y - body.apex - 0.35 * ax - 0.3 * ax * ax) / body.rib_gap);
        let band = |t: f32| below((t - 0.5).abs(), 0.16, 0.10);
        band(back) * below(0.1, ax, 0.03) + 0.5 * band(front) * below(0.35, ax, 0.1)
    }

    /// Smooth texture in -1..1 from the lattice.
    fn noise(&self, x: f32, y: f32) -> f32 {
        let place = |t: f32| ((t + 1.2) / 2.4).clamp(0.0, 0.9999) * (LATTICE - 1) as f32;
        let (u, v) = (place(x), place(y));
        let (i, j) = (u as usize, v as usize);
        let (s, t) = (u - i as f32, v - j as f32);
        let row = |j: usize| self.texture[j][i] * (1.0 - s) + self.texture[j][i + 1] * s;
        row(j) * (1.0 - t) + row(j + 1) * t
    }
}
