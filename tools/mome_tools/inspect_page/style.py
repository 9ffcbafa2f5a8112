"""How the page looks, and the one thing on it that moves: the search in the memories."""

from __future__ import annotations

CSS = """
:root{color-scheme:light dark;--bg:#f7f7f5;--panel:#fff;--ink:#1c2126;--soft:#59626c;--line:#e0e2e5;--live:#2a6ca6;
--dead:#a8afb7;--never:#eceef0;--damaged:#c8321f;--second:#c07f1c;--third:#75569f;--good:#2a7f4f;--link:#1f5c93}
@media (prefers-color-scheme:dark){:root{--bg:#121518;--panel:#1a1e22;--ink:#e5e8ea;--soft:#9fa9b3;--line:#2f353b;
--live:#5fa5de;--dead:#69727c;--never:#282d32;--damaged:#ff6a56;--second:#e0a548;--third:#b295dd;--good:#62c08b;--link:#86bdec}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Liberation Sans",Arial,sans-serif}
main,header,footer{max-width:68rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:2rem}
h1{font-size:1.6rem;line-height:1.2;margin:0 0 .25rem;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:0 0 .25rem}
h3{font-size:1rem;margin:1.4rem 0 .4rem}
p{margin:.3rem 0 .7rem;max-width:46rem}
a{color:var(--link)}
code{font:.9em ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;overflow-wrap:anywhere}
.soft,.most,.axis,caption,figcaption,dt{color:var(--soft)}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:.25rem 1rem;padding:0;margin:1rem 0 0;font-size:.9rem}
nav a{display:inline-block;padding:.2rem 0}
section{background:var(--panel);border:1px solid var(--line);border-radius:.6rem;padding:1.1rem 1.25rem;margin:1rem 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.25rem 1.25rem;margin:1.2rem 0 0}
.tiles div{border-top:2px solid var(--line);padding:.45rem 0}
.tiles dt{font-size:.85rem}
.tiles dd{margin:0;font-size:1.35rem;line-height:1.25;font-variant-numeric:tabular-nums}
.tiles small{display:block;font-size:.85rem;color:var(--soft)}
.verdict{display:flex;gap:.6rem;align-items:baseline;font-weight:600;margin:.8rem 0 0;max-width:none}
.verdict::before{content:"";flex:none;width:.7rem;height:.7rem;border-radius:50%;background:var(--good)}
.verdict.bad{color:var(--damaged)}.verdict.bad::before{background:var(--damaged);border-radius:0}
.todo{margin:.5rem 0 0;padding-left:1.2rem}.todo li{margin:.35rem 0;max-width:46rem}
figure{margin:.6rem 0 1rem}
svg{display:block;width:100%}
svg.bar{height:1.5rem;border-radius:.25rem}
svg.columns{height:7rem;border-bottom:1px solid var(--soft);overflow:visible}
svg.range{height:1.1rem;min-width:7rem}
svg.strip{height:1rem;border-radius:.15rem;background:var(--never);shape-rendering:crispEdges}
.most{font-size:.85rem;margin:0 0 .2rem}
.axis{display:flex;justify-content:space-between;gap:.5rem;font-size:.85rem;margin:.2rem 0 0;max-width:none}
.axis span:last-child{text-align:right}
.live{fill:var(--live);background:var(--live)}.dead{fill:var(--dead);background:var(--dead)}
.never{fill:var(--never);background:var(--never)}.damaged{fill:var(--damaged);background:var(--damaged)}
.second{fill:var(--second);background:var(--second)}.rule{fill:var(--line)}.ink{fill:var(--ink)}
.mixed1{fill:color-mix(in srgb,var(--live) 25%,var(--dead));background:color-mix(in srgb,var(--live) 25%,var(--dead))}
.mixed2{fill:color-mix(in srgb,var(--live) 50%,var(--dead));background:color-mix(in srgb,var(--live) 50%,var(--dead))}
.mixed3{fill:color-mix(in srgb,var(--live) 75%,var(--dead));background:color-mix(in srgb,var(--live) 75%,var(--dead))}
.idx{fill:color-mix(in srgb,var(--second) 55%,var(--panel));
background:color-mix(in srgb,var(--second) 55%,var(--panel))}
.cat{fill:color-mix(in srgb,var(--good) 75%,var(--panel));background:color-mix(in srgb,var(--good) 75%,var(--panel))}
.cache{fill:color-mix(in srgb,var(--third) 65%,var(--panel));
background:color-mix(in srgb,var(--third) 65%,var(--panel))}
.chip{display:inline-block;width:.8rem;height:.8rem;border-radius:.15rem;flex:none;
box-shadow:inset 0 0 0 1px color-mix(in srgb,var(--ink) 20%,transparent)}
.legend{list-style:none;padding:0;margin:.6rem 0 0;display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;font-size:.9rem}
.legend li{display:flex;align-items:center;gap:.45rem}
.legend.parts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(24rem,100%),1fr));gap:.25rem 2rem}
.legend.parts li{display:grid;grid-template-columns:.8rem 1fr auto 4.2rem}
.legend.parts b,.legend.parts .soft{text-align:right;font-variant-numeric:tabular-nums;font-weight:500}
.strips{display:grid;grid-template-columns:auto 1fr auto;gap:.3rem .8rem;align-items:center;font-size:.85rem;margin:0}
.strips span{white-space:nowrap;font-variant-numeric:tabular-nums}
.tilesmap{display:grid;grid-template-columns:repeat(auto-fill,minmax(3.4rem,1fr));gap:3px}
.tilesmap svg.strip{height:.8rem}
.tilesmap.roomy{grid-template-columns:repeat(auto-fill,minmax(6.5rem,1fr));gap:5px}
.tilesmap.roomy svg.strip{height:1.1rem}
.scroll{overflow-x:auto;margin:.5rem 0}
#memory-rows .scroll{max-height:36rem;overflow:auto;border:1px solid var(--line);border-radius:.4rem;padding:0 .8rem}
#memory-rows thead th{position:sticky;top:0;background:var(--panel)}
.paper{display:none}
table{border-collapse:collapse;width:100%;font-size:.92rem}
caption{text-align:left;font-size:.85rem;padding-bottom:.3rem}
th{text-align:left;font-weight:600;color:var(--soft);border-bottom:1px solid var(--line);white-space:nowrap;
vertical-align:bottom}
th,td{padding:.4rem .9rem .4rem 0;vertical-align:top}
td{border-bottom:1px solid var(--line);overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
tr:last-child td{border-bottom:0}
.q{unicode-bidi:isolate}
.num{white-space:nowrap}
@media (min-width:641px){.norms td:first-child{white-space:nowrap}.norms td:nth-child(2){width:60%}
.pairs td:nth-child(2),.pairs td:nth-child(3){width:36%}}
.tag{font-size:.82rem;border:1px solid currentColor;border-radius:1rem;padding:0 .5rem;white-space:nowrap}
.tag.bad{color:var(--damaged)}.tag.fine{color:var(--soft)}
details{margin:.6rem 0}summary{cursor:pointer;color:var(--link)}
input[type=search]{font:inherit;color:inherit;background:var(--bg);border:1px solid var(--soft);border-radius:.4rem;
padding:.45rem .7rem;width:100%;max-width:28rem}
label{display:block;font-size:.9rem;margin-bottom:.2rem}
dl.facts{display:grid;grid-template-columns:minmax(7rem,max-content) 1fr;gap:.25rem 1.2rem;margin:.5rem 0}
dl.facts dd{margin:0;overflow-wrap:anywhere}
footer{padding-bottom:2.5rem;color:var(--soft);font-size:.85rem}
:focus-visible{outline:2px solid var(--link);outline-offset:2px}
[hidden]{display:none!important}
@media (max-width:640px){
main,header,footer{padding-left:.8rem;padding-right:.8rem}
section{padding:.9rem .8rem}
h1{font-size:1.3rem}
.tiles{grid-template-columns:repeat(2,1fr)}
.legend.parts{grid-template-columns:1fr}
.strips{grid-template-columns:1fr auto;gap:.1rem .6rem}
.strips svg{grid-column:1/-1;order:0;margin-bottom:.5rem}
.tilesmap{grid-template-columns:repeat(auto-fill,minmax(2.4rem,1fr))}
table.wide thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
table.wide,table.wide tbody,table.wide tr,table.wide td,table.wide caption{display:block}
table.wide tr{border-bottom:1px solid var(--line);padding:.5rem 0}
table.wide td{border:0;padding:.1rem 0;display:grid;grid-template-columns:6.5rem 1fr;gap:.6rem}
table.wide td::before{content:attr(data-label);color:var(--soft);font-size:.85rem}
table.wide td:empty{display:none}
dl.facts{grid-template-columns:1fr;gap:0}dl.facts dd{margin-bottom:.5rem}
}
@media print{
:root{--bg:#fff;--panel:#fff;--ink:#000;--soft:#444;--line:#ccc;--live:#2a6ca6;--dead:#a8afb7;--never:#eceef0;
--damaged:#c8321f;--second:#c07f1c;--third:#75569f;--good:#2a7f4f;--link:#000}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
html{font-size:10pt}nav,.find,details:not([open]){display:none}
section{border:0;border-top:1px solid var(--line);border-radius:0;padding:.6rem 0}
.keep,tr{break-inside:avoid}h2,h3{break-after:avoid}.scroll{overflow:visible}
#memory-rows .scroll{max-height:none;overflow:visible;border:0;padding:0}
#memory-rows tbody tr:nth-child(n+101){display:none}.paper{display:block}
}
"""

SCRIPT = """
(function () {
  var find = document.getElementById("find"), said = document.getElementById("found");
  if (!find) return;
  var rows = Array.from(document.querySelectorAll("#memory-rows tbody tr"));
  var texts = rows.map(function (row) {
    return (row.cells[0].textContent + " " + row.cells[1].textContent).toLowerCase();
  });
  find.closest(".find").hidden = false;
  find.addEventListener("input", function () {
    var words = find.value.toLowerCase().split(/\\s+/).filter(Boolean), shown = 0;
    rows.forEach(function (row, i) {
      var fits = words.every(function (word) { return texts[i].includes(word); });
      row.hidden = !fits;
      shown += fits;
    });
    said.textContent = words.length ? shown + " of " + rows.length + " shown" : "";
  });
})();
"""
