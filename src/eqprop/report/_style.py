"""The style of a report: dark on light, one column, nothing loaded from elsewhere."""

STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --soft: #4d5560; --line: #d5dae0;
        --band: #f4f6f8; --blue: #0a5694; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink);
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans",
             sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .4rem;
     overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 0 0 .8rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .5rem; overflow-wrap: anywhere; }
p { margin: .4rem 0 .8rem; max-width: 46rem; }
section { margin-top: 1.6rem; padding-top: 1.2rem;
          border-top: 1px solid var(--line); }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; margin-top: 1rem;
      font-size: .9rem; }
a { color: var(--blue); }
.note, figcaption, footer { color: var(--soft); font-size: .88rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
         gap: .7rem; margin: 1rem 0 0; }
.tiles div { background: var(--band); border: 1px solid var(--line);
             border-radius: .4rem; padding: .6rem .8rem; }
.tiles dt { color: var(--soft); font-size: .85rem; }
.tiles dd { margin: 0; font-size: 1.25rem; font-weight: 600;
            font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; max-width: 100%; margin: 0 0 .6rem; }
.wide:focus-visible { outline: 2px solid var(--blue); }
table { border-collapse: collapse; font-size: .86rem; }
th, td { padding: .35rem .75rem .35rem 0; text-align: left; vertical-align: top;
         border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 500; }
td.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
.settings th, .settings td { font-family: ui-monospace, Menlo, Consolas,
  "DejaVu Sans Mono", monospace; font-size: .82rem; overflow-wrap: anywhere; }
.settings thead th { font-family: inherit; }
.differs { background: #fff3cf; }
.confusion td, .confusion th { padding: .25rem .1rem; text-align: center;
  border: 1px solid #fff; min-width: 1.75rem; font-variant-numeric: tabular-nums;
  font-size: .82rem; font-weight: 400; }
.confusion th { color: var(--soft); }
.panels { display: grid; gap: .8rem;
          grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
details { margin: .4rem 0 .8rem; }
summary { cursor: pointer; color: var(--blue); }
figure { margin: 0; }
figure img { max-width: 100%; height: auto; display: block; }
.panels img { width: 100%; }
.weights { width: 34rem; }
.histogram img { width: 32rem; }
.examples { display: grid; gap: .8rem .6rem; margin: 0; padding: 0; list-style: none;
            grid-template-columns: repeat(auto-fill, minmax(5.2rem, 1fr)); }
.examples img { width: 100%; image-rendering: pixelated;
                border: 1px solid var(--line); }
.examples figcaption { line-height: 1.3; padding-top: .2rem; }
.examples strong { color: var(--ink); }
.examples strong, .examples span { display: block; }
pre { background: var(--band); border: 1px solid var(--line); border-radius: .4rem;
      padding: .7rem .9rem; margin: .3rem 0 .8rem; overflow-x: auto;
      font: .85rem/1.5 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
      white-space: pre-wrap; overflow-wrap: anywhere; }
footer { margin-top: 2rem; border-top: 1px solid var(--line); padding-top: .6rem; }
@media (max-width: 30rem) { h1 { font-size: 1.3rem; }
  .tiles { grid-template-columns: 1fr 1fr; } .tiles dd { font-size: 1rem; } }
@media print { section { break-inside: avoid; } nav { display: none; }
               .wide { overflow: visible; } }
"""
