//! Chinese sentences: 未见 ↔ 见, 左 ↔ 右, 少量 ↔ 大量.

use super::opposite::{Opposite, OppositeKind};

/// Characters that deny. A sentence with two denials is left alone.
const DENIALS: [&str; 11] = ["未", "无", "不", "非", "否", "没", "除外", "無", "沒", "なし", "ない"];

/// Words that leave open what is the case, or compare.
const UNSURE: [&str; 36] = [
    "可能",
    "待排",
    "考虑",
    "疑",
    "倾向",
    "建议",
    "或",
    "请结合",
    "排除",
    "除外",
    "变化",
    "改变",
    "对比",
    "较前",
    "同前",
    "复查",
    "术后",
    "似",
    "其余",
    "余",
    "病史",
    "欠",
    "但",
    "？",
    "?",
    "吸收",
    "消失",
    "愈合",
    "好转",
    "减少",
    "基本",
    "大致",
    "恢复",
    "极",
    "无法",
    // A plate was taken: no finding.
    "摄影",
];

/// What is found or not found.
const FINDINGS: [&str; 30] = [
    "积液",
    "气胸",
    "实变",
    "渗出",
    "水肿",
    "斑片",
    "结节",
    "肿块",
    "肺不张",
    "不张",
    "肺炎",
    "炎症",
    "增大",
    "骨折",
    "病变",
    "异常",
    "占位",
    "钙化",
    "纤维",
    "气肿",
    "空洞",
    "增厚",
    "结核",
    "转移",
    "出血",
    "梗死",
    "扩张",
    "狭窄",
    "阴影",
    "影",
];

/// A part that is well.
const WELL: [&str; 4] = ["清晰", "正常", "通畅", "完整"];

/// Everything that the rules are sure about. `others` are the other sentences of the report.
pub(super) fn opposites(text: &str, others: &[&str]) -> Vec<Opposite> {
    let has = |list: &[&str]| list.iter().any(|word| text.contains(word));
    if has(&UNSURE) || text.chars().count() > 40 {
        return Vec::new();
    }
    let denials: usize = DENIALS.iter().map(|word| text.matches(word).count()).sum();
    let affirmed = denials == 0 && has(&FINDINGS) && !has(&WELL);
    let negation = match denials {
        0 if affirmed => denied(text),
        0 => well_denied(text),
        1 => affirmed_instead(text),
        _ => None,
    };
    let side = if affirmed { other_side(text, others) } else { None };
    let size = if affirmed { other_size(text) } else { None };
    let kinds = [(OppositeKind::Negation, negation), (OppositeKind::Laterality, side), (OppositeKind::Size, size)];
    kinds.into_iter().filter_map(|(kind, text)| Some(Opposite { kind, of_denial: denials == 1, text: text? })).collect()
}

/// The place of the one `word`; `None` where there is none or several.
fn only(text: &str, word: &str) -> Option<usize> {
    let mut places = text.match_indices(word);
    places.next().filter(|_| places.next().is_none()).map(|(at, _)| at)
}

fn replaced(text: &str, at: usize, old: &str, new: &str) -> String {
    format!("{}{new}{}", &text[..at], &text[at + old.len()..])
}

fn affirmed_instead(text: &str) -> Option<String> {
    let names_finding = |from: usize| FINDINGS.iter().any(|word| text[from..].contains(word));
    for (old, new) in [("未见", "见"), ("无", "有")] {
        if let Some(at) = only(text, old) {
            return names_finding(at + old.len()).then(|| replaced(text, at, old, new));
        }
    }
    // 心影不大
    let at = only(text, "不大")?;
    (text.contains("心")).then(|| replaced(text, at, "不大", "增大"))
}

fn denied(text: &str) -> Option<String> {
    /// 见 is part of another word there.
    const NOT_SEEN: [&str; 5] = ["所见", "常见", "少见", "罕见", "多见"];
    if NOT_SEEN.iter().any(|word| text.contains(word)) {
        return None;
    }
    for seen in ["可见", "见"] {
        if let Some(at) = only(text, seen) {
            return FINDINGS
                .iter()
                .any(|word| text[at + seen.len()..].contains(word))
                .then(|| replaced(text, at, seen, "未见"));
        }
    }
    let at = only(text, "增大")?;
    (text.contains("心")).then(|| replaced(text, at, "增大", "不大"))
}

fn well_denied(text: &str) -> Option<String> {
    let mut found = WELL.iter().filter_map(|word| Some((only(text, word)?, *word)));
    let (at, word) = found.next()?;
    found.next().is_none().then(|| format!("{}不{}", &text[..at], &text[at..])).filter(|_| at > 0 && !word.is_empty())
}

fn other_side(text: &str, others: &[&str]) -> Option<String> {
    /// Parts of one side only, and words that speak of both.
    const ONE_SIDED: [&str; 13] =
        ["双", "两", "水平裂", "左心", "右心", "左室", "右室", "左房", "右房", "舌", "中叶", "左主", "右主"];
    if ONE_SIDED.iter().any(|word| text.contains(word)) {
        return None;
    }
    let sides = [("左", "右"), ("右", "左")];
    let mut named = sides.into_iter().filter(|(side, _)| text.contains(side));
    let (side, other) = named.next().filter(|_| named.next().is_none())?;
    let speaks_of_other = others.iter().any(|text| text.contains(other) || text.contains('双') || text.contains('两'));
    let at = only(text, side)?;
    (!speaks_of_other).then(|| replaced(text, at, side, other))
}

fn other_size(text: &str) -> Option<String> {
    const SIZES: [(&str, &str); 6] =
        [("少量", "大量"), ("大量", "少量"), ("微量", "大量"), ("轻度", "重度"), ("重度", "轻度"), ("轻微", "严重")];
    if ["中等", "中量", "中度", "至"].iter().any(|word| text.contains(word)) {
        return None;
    }
    let mut found = SIZES.iter().filter(|(size, _)| text.contains(size));
    let (size, other) = found.next().filter(|_| found.next().is_none())?;
    Some(replaced(text, only(text, size)?, size, other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        let of = |kind, text: &str| opposites(text, &[]).into_iter().find(|o| o.kind == kind).map(|o| o.text);
        for (said, opposite) in [
            ("双侧胸腔未见积液。", "双侧胸腔见积液。"),
            ("右肺上叶可见斑片影。", "右肺上叶未见斑片影。"),
            ("无气胸。", "有气胸。"),
            ("心影增大。", "心影不大。"),
            ("心影不大。", "心影增大。"),
            ("双肺纹理清晰。", "双肺纹理不清晰。"),
        ] {
            assert_eq!(of(OppositeKind::Negation, said).as_deref(), Some(opposite));
        }
        let said = "左侧胸腔见少量积液。";
        assert_eq!(of(OppositeKind::Laterality, said).as_deref(), Some("右侧胸腔见少量积液。"));
        assert_eq!(of(OppositeKind::Size, said).as_deref(), Some("左侧胸腔见大量积液。"));
        for said in ["左肺未见积液，右肺未见结节。", "可能为肺炎。", "未见明显变化。", "左心室增大。"]
        {
            assert_eq!(of(OppositeKind::Laterality, said), None, "{said}");
        }
        assert_eq!(opposites("左肺未见积液，右肺未见结节。", &[]), []);
        for said in
            ["右肺结节与前片对比无变化。", "右侧积液基本吸收。", "右肺病變無異常。未见结节。", "胸水なし結節影。"]
        {
            assert_eq!(opposites(said, &[]), [], "{said}");
        }
    }
}
