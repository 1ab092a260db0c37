"""The theme: gray for the original, blue for the result, amber for its cost. Cards are styled in dashboard.css."""

import gradio as gr
from gradio.themes.utils import colors

from lsprism.charts.style import PALETTE

SANS = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]  # no web fonts
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
BLUE = colors.Color(
    name="prism",
    c50="#f2f6ff", c100="#e3ecff", c200="#c6d8fe", c300="#9dbcfb", c400="#6b96f5", c500=PALETTE[1],
    c600="#2459cc", c700="#1d479f", c800="#1a3a7d", c900="#182f60", c950="#101d3d",
)  # fmt: skip
GREY = colors.Color(
    name="stone",
    c50="#fafaf9", c100="#f3f3f1", c200="#e6e6e3", c300="#d3d3cf", c400="#a3a5a8", c500=PALETTE[0],
    c600="#52565e", c700="#3a3e45", c800="#25282d", c900="#1a1c20", c950="#131518",
)  # fmt: skip


def make_theme() -> gr.themes.Base:
    return gr.themes.Base(
        primary_hue=BLUE,
        secondary_hue=BLUE,
        neutral_hue=GREY,
        font=SANS,
        font_mono=MONO,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        text_size=gr.themes.sizes.text_md,
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="0px",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_title_text_weight="600",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_info_text_color="*neutral_500",
        input_background_fill="white",
        input_background_fill_dark="*neutral_900",
        input_border_width="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        panel_background_fill="transparent",
        panel_background_fill_dark="transparent",
        panel_border_width="0px",
        button_primary_background_fill="*primary_500",
        button_primary_background_fill_hover="*primary_600",
        button_primary_text_color="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_border_width="1px",
        slider_color="*primary_500",
    )
