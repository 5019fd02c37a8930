//! Chinese wordings of phantom reports: tables only. To word something in another way, add a line. Phrases end without
//! a full stop; `report` joins them.

use super::scene::{Device, Extent, Finding, Grade, Inspiration, Side, Zone};
use super::words::{Denial, Phrases, Words};

/// The Chinese tables.
pub(super) const WORDS: Words = Words {
    finding,
    device,
    volume,
    denial,
    scoliosis: &SCOLIOSIS,
    normal: &NORMAL,
    healthy: &HEALTHY,
    side,
    zone,
    extent,
    spread,
    grade,
};

/// Impressions of studies without findings, devices or variants.
const NORMAL: [&str; 5] =
    ["心肺膈未见异常", "胸部正位片未见异常", "双肺、心脏未见明显异常", "胸片未见异常", "心肺未见明显病变"];

/// Impressions of studies without findings but with a device or variant.
const HEALTHY: [&str; 5] =
    ["心肺未见急性病变", "胸部未见急性病变", "双肺未见活动性病变", "未见急性心肺疾病征象", "两肺未见急性病变"];

/// A bent spine.
const SCOLIOSIS: [&str; 3] = ["胸椎向{side}侧弯", "脊柱侧弯，凸向{side}侧", "胸椎{side}凸侧弯"];

fn finding(finding: Finding) -> (Phrases, Phrases) {
    match finding {
        Finding::Pneumothorax(..) => (
            &[
                "{side}侧胸腔见{size}气胸",
                "{side}侧胸腔内见无肺纹理透亮区，为{size}气胸",
                "{side}肺外带可见气胸线，提示{size}气胸",
                "{side}侧见{size}气胸，脏层胸膜线可见",
            ],
            &["{side}侧{size}气胸", "{side}侧气胸（{size}）"],
        ),
        Finding::Consolidation(..) => (
            &[
                "{side}肺{zone}野见{size}实变影",
                "{side}肺{zone}野可见{size}密度增高影",
                "于{side}肺{zone}野见{size}渗出实变影，边缘模糊",
                "{side}侧{zone}肺野透亮度减低，呈{size}实变",
            ],
            &["{side}肺{zone}野{size}实变", "{side}肺{zone}野{size}渗出实变"],
        ),
        Finding::Edema(_) => (
            &[
                "双肺门周围见云雾状模糊影，符合{size}肺水肿",
                "两肺对称性透亮度减低，考虑{size}肺水肿",
                "双肺见{size}肺水肿征象",
                "肺门影模糊，两肺呈蝶翼状渗出，为{size}肺水肿",
            ],
            &["{size}肺水肿", "双肺{size}肺水肿"],
        ),
        Finding::Effusion(..) => (
            &[
                "{side}侧胸腔见{size}积液",
                "{side}侧肋膈角显示不清，为{size}胸腔积液",
                "{side}下胸部见外高内低弧形致密影，提示{size}胸腔积液",
                "{side}侧膈面显示不清，胸腔内见{size}积液",
            ],
            &["{side}侧{size}胸腔积液", "{side}侧胸腔积液（{size}）"],
        ),
        Finding::Nodule(..) => (
            &[
                "{side}肺{zone}野见结节影，直径约{mm}mm",
                "{side}肺{zone}野可见一类圆形结节，大小约{mm}mm",
                "于{side}肺{zone}野见直径约{mm}mm的孤立结节，边界清楚",
                "{side}侧{zone}肺野见约{mm}mm结节状高密度影",
            ],
            &["{side}肺{zone}野结节，约{mm}mm", "{side}肺{zone}野{mm}mm结节"],
        ),
        Finding::Cardiomegaly(_) => (
            &["心影{size}增大", "心脏呈{size}增大", "心胸比增大，心影{size}增大", "心影向左扩大，呈{size}增大"],
            &["心影{size}增大", "心脏{size}增大"],
        ),
        Finding::Atelectasis(..) => (
            &[
                "{side}肺{zone}野见条索状不张影",
                "{side}肺{zone}野可见盘状肺不张",
                "于{side}肺{zone}野见线状致密影，考虑盘状不张",
                "{side}侧{zone}肺野见带状亚段性肺不张",
            ],
            &["{side}肺{zone}野盘状肺不张", "{side}肺{zone}野条索状不张"],
        ),
    }
}

fn device(device: Device) -> Phrases {
    match device {
        Device::EndotrachealTube => {
            &["气管插管在位，末端位于隆突上方", "气管内见插管影", "气管插管术后，管端位于气管内"]
        }
        Device::NasogastricTube => &["鼻胃管在位，末端位于胃内", "见鼻胃管影越过膈肌", "胃管留置，末端达胃腔"],
        Device::CentralLine(_) => {
            &["{side}侧中心静脉导管末端位于上腔静脉", "见{side}侧锁骨下静脉置管影", "{side}侧中心静脉置管在位"]
        }
        Device::Pacemaker(_) => {
            &["{side}侧胸壁见心脏起搏器影，导线达右心室", "{side}侧胸壁起搏器植入术后", "{side}上胸部见起搏器及导线影"]
        }
    }
}

fn volume(inspiration: Inspiration) -> Phrases {
    match inspiration {
        Inspiration::Normal => &[],
        Inspiration::Low => &["吸气不足，肺容积减小", "双侧膈肌位置升高", "肺容积偏小"],
        Inspiration::Deep => &["双肺过度充气", "膈肌低平，肺容积增大", "双肺过度膨胀，膈面变平"],
    }
}

fn denial(denial: Denial) -> Phrases {
    match denial {
        Denial::Heart => {
            &["心影大小正常", "心影不大", "心影形态、大小未见异常", "心胸比在正常范围", "心脏大小未见异常"]
        }
        Denial::Pleura => &[
            "两侧未见气胸，亦无胸腔积液",
            "未见胸腔积液及气胸",
            "两侧胸腔未见积液、积气",
            "双侧胸膜腔未见异常",
            "未见气胸及胸腔积液征象",
        ],
        Denial::Effusion => &["未见胸腔积液", "胸腔未见积液征象"],
        Denial::Pneumothorax => &["未见气胸", "未见气胸征象"],
        Denial::Lungs => &[
            "双肺野清晰",
            "两肺未见明显实变影",
            "双肺未见异常密度影",
            "两肺野清楚，未见结节",
            "双肺纹理清晰，未见渗出",
        ],
        Denial::Lung => &["{side}肺野清晰", "{side}肺未见异常", "{side}肺未见异常密度影"],
        Denial::Consolidation => &["双肺未见实变影", "未见肺实变"],
        Denial::Bones => &["骨性胸廓未见异常", "所见骨质未见异常", "未见骨折征象"],
    }
}

fn side(side: Side) -> &'static str {
    match side {
        Side::Right => "右",
        Side::Left => "左",
    }
}

fn zone(zone: Zone) -> &'static str {
    match zone {
        Zone::Upper => "上",
        Zone::Middle => "中",
        Zone::Lower => "下",
    }
}

/// Amount of fluid or air.
fn extent(extent: Extent) -> &'static str {
    match extent {
        Extent::Small => "少量",
        Extent::Moderate => "中等量",
        Extent::Large => "大量",
    }
}

/// Size of a consolidation.
fn spread(extent: Extent) -> &'static str {
    match extent {
        Extent::Small => "小片状",
        Extent::Moderate | Extent::Large => "大片状",
    }
}

fn grade(grade: Grade) -> &'static str {
    match grade {
        Grade::Mild => "轻度",
        Grade::Moderate => "中度",
        Grade::Severe => "重度",
    }
}
