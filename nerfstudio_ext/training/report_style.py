"""Style sheet and the one small script of report.html."""

from __future__ import annotations

STYLE = """
:root{--bg:#f6f6f3;--card:#fff;--ink:#1d2126;--soft:#69717a;--line:#e3e4df;--accent:#2f6fdf;--warm:#e2762b;--glow:#2f6fdf1c}
@media(prefers-color-scheme:dark){:root{--bg:#14171b;--card:#1c2026;--ink:#e8eaec;--soft:#98a1ab;--line:#2d333b;
--accent:#6ea4ff;--warm:#f39a55;--glow:#6ea4ff22}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:clamp(1.7rem,5vw,2.5rem);line-height:1.15;margin:0;letter-spacing:-.02em;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:0 0 12px;letter-spacing:-.01em}
.sub,.legend,.empty{color:var(--soft);margin:.4em 0 0;font-size:.9rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(135px,1fr));gap:10px;margin:22px 0 8px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:12px 15px}
.tile b{display:block;font-size:1.55rem;line-height:1.2;font-variant-numeric:tabular-nums;letter-spacing:-.02em}
.tile:first-child b{color:var(--accent)}
.tile i{font-style:normal;font-size:.95rem;font-weight:500;margin-left:.25em}
.tile span{font-size:.82rem;color:var(--soft)}
.note{border-left:4px solid var(--warm);background:var(--card);padding:10px 14px;border-radius:0 8px 8px 0}
section{margin-top:34px}
figure{margin:0}
figcaption{font-size:.82rem;color:var(--soft)}
.views{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:14px;margin-top:14px}
.view{background:var(--card);border:1px solid var(--line);border-radius:12px;overflow:hidden;grid-column:1/-1}
.view.tall{grid-column:auto}
.pictures{display:grid;grid-template-columns:repeat(3,1fr);gap:2px;background:var(--line)}
.pictures figure{position:relative;background:var(--card)}
.pictures img{display:block;width:100%;height:auto}
.pictures figcaption{position:absolute;left:8px;bottom:8px;background:#000a;color:#fff;border-radius:6px;
padding:1px 8px;pointer-events:none}
.wipe .over{position:absolute;inset:0;height:100%;clip-path:inset(0 calc(100% - var(--at,0%)) 0 0)}
.wipe.on::after{content:"";position:absolute;top:0;bottom:0;left:var(--at);width:2px;margin-left:-1px;background:#fff;
box-shadow:0 0 4px #0009;pointer-events:none}
.wipe input{position:absolute;inset:0;width:100%;height:100%;margin:0;opacity:0;cursor:ew-resize;touch-action:pan-y}
.wipe:focus-within{outline:2px solid var(--accent);outline-offset:-2px}
.score{display:flex;justify-content:space-between;gap:12px;flex-wrap:wrap;margin:0;padding:9px 14px;font-size:.9rem;
color:var(--soft);font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.score b{color:var(--ink)}
.scale{display:inline-block;width:90px;height:.7em;border-radius:3px;
background:linear-gradient(90deg,#000,#280b54,#65156e,#9f2a63,#d44842,#f57d15,#fac127,#fcffa4)}
.charts,.layouts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:14px}
.charts figure,.layouts figure{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:12px 14px}
.charts figcaption{font-size:.92rem;color:var(--ink);font-weight:600;margin-bottom:4px}
svg{display:block;width:100%;height:auto}
svg.layout{max-width:430px;margin:0 auto}
svg text{font:14px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--soft)}
.grid{stroke:var(--line);fill:none}
.raw{stroke:var(--accent);fill:none;opacity:.3;stroke-width:1}
.curve{stroke:var(--accent);fill:none;stroke-width:2.4;stroke-linejoin:round;stroke-linecap:round}
.area{fill:var(--glow);stroke:none}
.end{fill:var(--accent);stroke:var(--card);stroke-width:1.5}
.level{stroke:var(--warm);stroke-width:1.6;stroke-dasharray:6 5;fill:none}
svg .level-name{fill:var(--warm);font-weight:600;paint-order:stroke;stroke:var(--card);stroke-width:4px}
.camera{stroke-width:1.1;stroke-linejoin:round}
.camera.train{fill:var(--glow);stroke:var(--accent)}
.camera.test{fill:var(--warm);stroke:var(--warm)}
.cube{fill:none;stroke:var(--soft);stroke-dasharray:3 4}
.points{stroke:var(--soft);stroke-width:1.8;stroke-linecap:round;opacity:.5;fill:none}
.key{display:inline-block;width:.75em;height:.75em;border-radius:3px;margin-right:.35em;vertical-align:-.02em}
.key.train{background:var(--glow);border:1.5px solid var(--accent)}.key.test{background:var(--warm)}
.key.cube{border:1.5px dashed var(--soft)}
.bar{display:flex;height:22px;border-radius:8px;overflow:hidden;gap:2px}
.t0{background:#8f9aa6}.t1{background:#c9a227}.t2{background:var(--accent)}.t3{background:#3fa579}.t4{background:var(--warm)}
.t5{background:#9a6fd0}
.times{list-style:none;display:flex;flex-wrap:wrap;gap:4px 22px;padding:0;margin:10px 0 0;font-size:.92rem}
details{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:10px 16px}
summary{cursor:pointer;color:var(--soft)}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
td,th{text-align:left;padding:4px 10px 4px 0;border-bottom:1px solid var(--line);font-weight:400;vertical-align:top;
overflow-wrap:anywhere}
th,td:first-child{color:var(--soft)}
caption{text-align:left;font-weight:600;padding:10px 0 4px}
.changed td{font-weight:700;color:var(--ink)}
.meter{width:30%;min-width:70px}
.meter span{display:block;height:.6em;margin-top:.45em;border-radius:4px;background:var(--accent)}
.settings{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr));gap:0 34px;align-items:start}
.machine{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:6px 16px}
tr:last-child td{border-bottom:0}
footer{margin-top:40px;color:var(--soft);font-size:.9rem}
footer p{margin:.3em 0}
code{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:2px 7px;font-size:.86em;
overflow-wrap:anywhere}
@media(max-width:640px){main{padding:20px 14px 40px}
.tiles{grid-template-columns:repeat(3,1fr);gap:8px}.tile{padding:10px 11px}.tile b{font-size:1.2rem}
.tile span{font-size:.76rem}
.pictures{grid-template-columns:repeat(2,1fr)}.wipe{grid-column:1/-1;grid-row:1}
.view.tall{grid-column:1/-1;display:grid;grid-template-columns:1fr 1fr;gap:2px}.tall .pictures{display:contents}
.tall figure{position:relative}.tall .wipe{grid-column:2;grid-row:1}
.tall .score{flex-direction:column;justify-content:center;padding:16px}
.pictures figcaption{left:5px;bottom:5px}
.meter{display:none}}
"""

SCRIPT = """
for(const wipe of document.querySelectorAll('.wipe')){
  const over=document.createElement('img'),input=wipe.querySelector('input');
  over.className='over';over.alt='';
  over.src=wipe.parentElement.querySelector('img').src;
  wipe.insertBefore(over,input);
  input.addEventListener('input',()=>{
    wipe.style.setProperty('--at',input.value+'%');
    wipe.classList.toggle('on',input.value>0);
  });
}
"""
