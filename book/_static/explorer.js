/* The explorer: one page, no server, no library. A shard is a classic script that calls `crossmodal.shard({...})`; the list of shards calls `crossmodal.list([...])`.
   All words of the data go in as text, never as html. Scores are cosines in double precision, term by term in order: Python (explorer.neighbours) gives the same bits. */
'use strict';
window.crossmodal = window.crossmodal || (() => {      // a page may load this twice
  const known = {};                                   // address of a shard: the shard
  let shards = [], here = null, latest = '', terms = [], kept = null, spot = null, view = {k: 1, x: 0, y: 0};   // kept: the query by names, while the method changes; spot: a place of the map, of which a picture is drawn
  const root = () => document.getElementById('cm-explorer');
  const make = (tag, put = {}, ...inside) => {        // an element; properties, or attributes where the name has a dash
    const e = document.createElement(tag);
    for (const [k, v] of Object.entries(put)) if (k.includes('-') || k === 'role' || k === 'for') e.setAttribute(k, v); else e[k] = v;
    e.append(...inside); return e;
  };

  /* codes */
  const bytes = text => Int8Array.from(atob(text), c => c.charCodeAt(0));
  function prepare(s) {
    for (const v of s.views) {
      v.codes = bytes(v.codes); v.norm = new Float64Array(v.ids.length);
      for (let i = 0; i < v.norm.length; i++) { let t = 0; for (let j = 0; j < s.d; j++) t += v.codes[i * s.d + j] ** 2; v.norm[i] = Math.sqrt(t); }
      v.mean = new Float64Array(s.d);
      for (let i = 0; i < v.norm.length; i++) for (let j = 0; j < s.d; j++) v.mean[j] += v.norm[i] ? v.codes[i * s.d + j] / v.norm[i] : 0;
      for (let j = 0; j < s.d; j++) v.mean[j] /= v.norm.length;
    }
    if (s.decoder) for (const k of ['map', 'rows']) s.decoder[k] = bytes(s.decoder[k]);
    return s;
  }
  function query(s, terms) {                          // one term: its code; several: the signed sum of unit codes, each minus the mean of its modality
    const q = new Float64Array(s.d);
    for (const [sign, a, i] of terms) { const v = s.views[a];
      for (let j = 0; j < s.d; j++) q[j] += terms.length === 1 ? v.codes[i * s.d + j] : sign * ((v.norm[i] ? v.codes[i * s.d + j] / v.norm[i] : 0) - v.mean[j]); }
    return q;
  }
  function neighbours(s, terms, b, k) {               // [[row, score], …] of view b, best first, without the terms themselves
    const q = query(s, terms), v = s.views[b], own = new Set(terms.filter(t => t[1] === b).map(t => t[2])), found = [];
    let n = 0; for (let j = 0; j < s.d; j++) n += q[j] * q[j]; n = Math.sqrt(n);
    for (let i = 0; i < v.norm.length; i++) { if (own.has(i)) continue;
      let t = 0; for (let j = 0; j < s.d; j++) t += q[j] * v.codes[i * s.d + j];
      found.push([i, n && v.norm[i] ? t / (n * v.norm[i]) : 0]); }
    return found.sort((x, y) => y[1] - x[1] || x[0] - y[0]).slice(0, k);
  }

  /* what lies between points: Python (explorer.code_between, explorer.drawn) gives the same to rounding */
  function between(s, x, y, k = 8) {                  // the mean of the nearest codes, each by the inverse of its squared distance; and the rows they are of
    const all = s.views.flatMap((v, a) => v.ids.map((_, i) => [(v.x[i] - x) ** 2 + (v.y[i] - y) ** 2, a, i])).sort((p, q) => p[0] - q[0] || p[1] - q[1] || p[2] - q[2]).slice(0, k);
    const code = new Float64Array(s.d); let n = 0;
    for (const [far, a, i] of all) { const v = s.views[a]; if (v.norm[i]) for (let j = 0; j < s.d; j++) code[j] += v.codes[i * s.d + j] / v.norm[i] / Math.max(far, 1); }
    for (const c of code) n += c * c;
    return {code: code.map(c => c / Math.max(Math.sqrt(n), 1e-30)), rows: all.map(([, a, i]) => [a, i])};
  }
  function pixels(s, code) {                          // −1 … 1: red, green and blue one after the other
    const {map, rows, scales, size} = s.decoder, wide = 3 * size * size, out = new Float64Array(wide);
    for (let r = 0; r < scales.length; r++) {
      let share = r ? 0 : 1; if (r) for (let j = 0; j < s.d; j++) share += map[(r - 1) * s.d + j] * code[j];
      for (let p = 0; p < wide; p++) out[p] += share * scales[r] * rows[r * wide + p];
    }
    return out;
  }
  function png(s, code) {                             // as the address of a picture
    const n = s.decoder.size, c = make('canvas', {width: n, height: n}), g = c.getContext('2d'), im = g.createImageData(n, n), out = pixels(s, code);
    for (let p = 0; p < n * n; p++) for (let k = 0; k < 4; k++) im.data[4 * p + k] = k === 3 ? 255 : Math.round((Math.min(1, Math.max(-1, out[k * n * n + p])) + 1) * 127.5);
    g.putImageData(im, 0, 0); return c.toDataURL();
  }
  function drawSpot(speak) {                          // the picture beside the map, and what is told of it
    const box = root().querySelector('.cm-x-drawn'), s = here; box.hidden = !spot || !s.decoder;
    if (box.hidden) return box.replaceChildren();
    const {code, rows} = between(s, ...spot), names = rows.slice(0, 3).map(([a, i]) => said(s, a, i)), words = `Drawn between ${names.join(', ')}`;
    box.replaceChildren(make('img', {src: png(s, code), alt: words}), make('figcaption', {textContent: `${words} and ${rows.length - names.length} more: the linear decoder of the space, of the mean of their codes.`, dir: 'auto'}));
    if (speak) root().querySelector('.cm-x-said').textContent = words;
  }
  function imagine(x, y) { spot = [x, y]; show(); drawSpot(true); }
  const unplace = (px, py, w, h) => [((px - w / 2) / (view.k * w * .92) - view.x + .5) * 1000, ((py - h / 2) / (view.k * h * .92) - view.y + .5) * 1000];

  /* what is where */
  function look(s, a, i) {                            // a row as a reader sees it
    const v = s.views[a], shown = v.shown[i], name = v.ids[i];
    if (shown.startsWith('data:image/')) return make('img', {src: shown, alt: v.alt ? v.alt[i] : name, title: v.alt ? v.alt[i] : name, loading: 'lazy'});
    if (shown.startsWith('data:audio/')) return make('span', {textContent: `♪ ${v.alt ? v.alt[i] : name}`, dir: 'auto'});
    return make('span', {textContent: shown.length > 120 ? shown.slice(0, 119) + '…' : shown, dir: 'auto'});
  }
  const heard = (s, a, i) => s.views[a].shown[i].startsWith('data:audio/') ? [make('audio', {src: s.views[a].shown[i], controls: true, 'aria-label': said(s, a, i)})] : [];
  const said = (s, a, i) => `${s.views[a].name} ${s.views[a].alt ? s.views[a].alt[i] : s.views[a].shown[i].startsWith('data:') ? s.views[a].ids[i] : s.views[a].shown[i].slice(0, 60)}`;
  const mode = () => root().querySelector('input[name=cm-mode]:checked').value;

  function choose(a, i) {                             // a click, or Enter, on a row
    spot = null;
    const m = mode(), at = terms.findIndex(t => t[1] === a && t[2] === i);
    if (m === 'new') terms = [[1, a, i]];
    else if (at >= 0) terms.splice(at, 1);
    else terms.push([m === 'plus' ? 1 : -1, a, i]);
    show();
  }

  function matchBeyond(s, b, items, k) {              // the first match that is not among the k nearest: its row and rank; null where one of these is a match, or none is there
    const rows = neighbours(s, terms, b, Infinity).map(n => n[0]), at = rows.findIndex(i => items.has(s.views[b].item[i]));
    return at >= k ? [rows[at], at + 1] : null;
  }
  function example(s) {                               // by rule: the first row of the last modality whose nearest row in the first one is its match
    const b = s.views.length - 1, v = s.views[b], i = b ? v.ids.findIndex((_, i) => { const [n] = neighbours(s, [[1, b, i]], 0, 1); return n && s.views[0].item[n[0]] === v.item[i]; }) : -1;
    return i < 0 ? [] : [[1, b, i]];
  }

  function show() {
    const s = here, chips = root().querySelector('.cm-x-terms'), out = root().querySelector('.cm-x-found'), was = document.activeElement;
    const section = [...out.children].findIndex(e => e.contains(was)), chip = [...chips.querySelectorAll('button')].indexOf(was);     // where the keyboard is: the next lines put new buttons there
    chips.replaceChildren(...terms.flatMap(([sign, a, i], n) => [make('button', {type: 'button', className: 'cm-x-chip', 'aria-label': `remove ${said(s, a, i)}`, onclick: () => { terms.splice(n, 1); show(); }},
      make('b', {textContent: sign > 0 ? '+' : '−'}), look(s, a, i), make('span', {textContent: ' ×', 'aria-hidden': 'true'})), ...heard(s, a, i)]));
    const items = new Set(terms.map(([, a, i]) => s.views[a].item[i]));
    out.replaceChildren(...(terms.length ? s.views.map((v, b) => {
      const list = make('ol', {'aria-label': `nearest ${v.name}`});
      for (const [i, score] of neighbours(s, terms, b, 8)) {
        const own = terms.length === 1 && items.has(v.item[i]);
        const button = make('button', {type: 'button', className: own ? 'cm-x-own' : '', onclick: () => choose(b, i)}, look(s, b, i), make('small', {textContent: `${score.toFixed(3)}${own ? ' ✓' : ''}`}));
        button.dataset.row = i; button.dataset.score = score;
        list.append(make('li', {}, button, ...heard(s, b, i)));
      }
      const far = terms.length === 1 && matchBeyond(s, b, items, 8);
      if (far) list.append(make('li', {value: far[1]}, make('button', {type: 'button', className: 'cm-x-far', onclick: () => choose(b, far[0])}, look(s, b, far[0]), make('small', {textContent: `✓ rank ${far[1]} of ${v.ids.length}`}))));
      return make('section', {}, make('h3', {textContent: v.name}), list);
    }) : [make('p', {textContent: 'Choose a point of the map, or an item of the list.'})]));
    const left = chips.querySelectorAll('button');
    if (section >= 0) (out.children[section] || out).querySelector('button')?.focus(); else if (chip >= 0) (left[Math.min(chip, left.length - 1)] || root().querySelector('canvas')).focus();
    root().querySelector('.cm-x-said').textContent = terms.length ? `${terms.map(([g, a, i]) => (g > 0 ? '' : 'minus ') + said(s, a, i)).join(', plus ')}. Nearest: ` +
      s.views.map((v, b) => { const [n] = neighbours(s, terms, b, 1); return n ? said(s, b, n[0]) : ''; }).filter(Boolean).join('; ') : '';
    draw(); drawSpot();
    const state = new URLSearchParams({shard: s.address, ...(spot && s.decoder ? {spot: spot.map(Math.round).join(',')} : {}), terms: terms.map(([g, a, i]) => `${g > 0 ? '+' : '-'}${s.views[a].name}:${i}`).join(',')});
    try { history.replaceState(null, '', '#' + state); } catch (e) { /* some browsers refuse this for files */ }
  }

  /* the map */
  const palette = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#882255', '#999933', '#332288', '#44AA99'];
  const place = (v, i, w, h) => [(v.x[i] / 1000 - .5 + view.x) * view.k * w * .92 + w / 2, (v.y[i] / 1000 - .5 + view.y) * view.k * h * .92 + h / 2];
  function draw() {
    const s = here, c = root().querySelector('canvas'), r = devicePixelRatio || 1, w = c.clientWidth, h = c.clientHeight, g = c.getContext('2d');
    const ink = getComputedStyle(root()).color, by = root().querySelector('#cm-x-colour').value, pale = document.documentElement.dataset.theme === 'dark' ? .6 : .35;
    c.width = w * r; c.height = h * r; g.scale(r, r); g.clearRect(0, 0, w, h);
    const near = s.views.map((_, b) => new Set(terms.length ? neighbours(s, terms, b, 8).map(n => n[0]) : []));
    for (const later of [false, true]) s.views.forEach((v, a) => v.ids.forEach((_, i) => {
      const chosen = terms.some(t => t[1] === a && t[2] === i), close = near[a].has(i);
      if (later !== (chosen || close)) return;
      const [x, y] = place(v, i, w, h); if (x < 0 || y < 0 || x > w || y > h) return;
      g.globalAlpha = terms.length && !later ? pale : .9; g.beginPath();
      const size = chosen ? 8 : close ? 6 : 3.2;
      if (a % 2) g.rect(x - size * .85, y - size * .85, 1.7 * size, 1.7 * size); else g.arc(x, y, size, 0, 7);
      g.fillStyle = by === 'class' && v.label ? (v.label[i] < 0 ? '#888' : palette[v.label[i] % 10]) : palette[a]; g.fill();
      if (later) { g.globalAlpha = 1; g.lineWidth = chosen ? 3 : 1.5; g.strokeStyle = ink; g.stroke(); }
    }));
    if (spot && s.decoder) { const x = (spot[0] / 1000 - .5 + view.x) * view.k * w * .92 + w / 2, y = (spot[1] / 1000 - .5 + view.y) * view.k * h * .92 + h / 2;
      g.globalAlpha = 1; g.lineWidth = 2.5; g.strokeStyle = ink; g.beginPath(); g.moveTo(x - 8, y - 8); g.lineTo(x + 8, y + 8); g.moveTo(x + 8, y - 8); g.lineTo(x - 8, y + 8); g.stroke(); }
    g.globalAlpha = 1; c.style.touchAction = view.k > 1 ? 'none' : 'pan-y';
    if (c.matches(':focus-visible')) { g.lineWidth = 1.5; g.strokeStyle = ink; g.beginPath(); g.moveTo(w / 2 - 12, h / 2); g.lineTo(w / 2 + 12, h / 2); g.moveTo(w / 2, h / 2 - 12); g.lineTo(w / 2, h / 2 + 12); g.stroke(); }
    const legend = root().querySelector('.cm-x-legend'), names = by === 'class' && s.classes ? s.classes.slice(0, 10) : s.views.map(v => v.name);
    legend.replaceChildren(...names.map((n, i) => { const dot = make('i', {'aria-hidden': 'true'}); dot.style.background = palette[i % 10]; return make('span', {}, dot, n + (by !== 'class' ? (i % 2 ? ' ■' : ' ●') : '')); }),
      ...(by === 'class' && s.classes && s.classes.length > 10 ? [make('span', {textContent: `colours repeat: ${s.classes.length} classes`})] : []));
  }
  function closest(px, py, far) {                     // the row nearest to a place on the canvas, and no farther than that
    const c = root().querySelector('canvas'), best = [far, -1, -1];
    here.views.forEach((v, a) => v.ids.forEach((_, i) => { const [x, y] = place(v, i, c.clientWidth, c.clientHeight), d = Math.hypot(x - px, y - py); if (d < best[0]) best.splice(0, 3, d, a, i); }));
    return best;
  }
  function pointed(e) { const c = root().querySelector('canvas'), box = c.getBoundingClientRect(); return closest(e.clientX - box.left - c.clientLeft, e.clientY - box.top - c.clientTop, 15); }
  function middle() { const c = root().querySelector('canvas'); return closest(c.clientWidth / 2, c.clientHeight / 2, Infinity); }
  function zoom(f, x = 0, y = 0) {                    // x, y: what stays in place, as shares of the canvas from its middle
    const k = Math.min(40, Math.max(1, view.k * f)), move = 1 / k - 1 / view.k;
    view = k === 1 ? {k, x: 0, y: 0} : {k, x: view.x + x * move / .92, y: view.y + y * move / .92}; draw();
  }

  function listing() {
    const s = here, a = +root().querySelector('#cm-x-view').value, words = root().querySelector('#cm-x-filter').value.toLowerCase(), v = s.views[a], list = root().querySelector('.cm-x-list');
    const rows = v.ids.map((_, i) => i).filter(i => !words || said(s, a, i).toLowerCase().includes(words) || v.ids[i].toLowerCase().includes(words));
    list.replaceChildren(...rows.slice(0, 300).map(i => make('button', {type: 'button', title: said(s, a, i), 'aria-label': said(s, a, i), onclick: () => choose(a, i)}, look(s, a, i))));
    if (rows.length > 300) list.append(make('p', {textContent: `… and ${rows.length - 300} more: type to find them`}));
    if (!rows.length) list.append(make('p', {textContent: 'nothing of that name'}));
  }

  function open(s, wanted, at) {
    here = s; view = {k: 1, x: 0, y: 0}; spot = /^-?\d+,-?\d+$/.test(at || '') ? at.split(',').map(Number) : null;
    terms = (wanted || '').split(',').map(t => /^([+-])([^:]+):(\d+)$/.exec(t)).filter(Boolean).map(([, g, n, i]) => [g === '-' ? -1 : 1, s.views.findIndex(v => v.name === n), +i]).filter(([, a, i]) => a >= 0 && i < s.views[a].ids.length);
    if (kept) terms = kept.map(([g, name, id]) => { const a = s.views.findIndex(v => v.name === name); return [g, a, a < 0 ? -1 : s.views[a].ids.indexOf(id)]; }).filter(t => t[2] >= 0);
    if (!terms.length && !spot) terms = example(s);
    kept = null;
    root().querySelector('.cm-x-about').textContent = s.about;
    root().querySelector('#cm-x-view').replaceChildren(...s.views.map((v, a) => make('option', {value: a, textContent: `${v.name} (${v.ids.length})`})));
    const colour = root().querySelector('#cm-x-colour'); colour.replaceChildren(make('option', {value: 'view', textContent: 'modality'}), ...(s.classes ? [make('option', {value: 'class', textContent: 'class'})] : []));
    listing(); show(); root().dataset.ready = s.address;
  }
  function load(address, wanted, at) {
    latest = address; if (known[address]) return open(known[address], wanted, at);
    root().querySelector('.cm-x-about').textContent = 'loading …';
    const base = document.querySelector('script[src*="shards/list.js"]').src.replace(/list\.js.*$/, '');
    document.head.append(make('script', {src: base + address, onload: () => { if (latest === address) open(known[address], wanted, at); }, onerror: () => { if (latest === address) root().querySelector('.cm-x-about').textContent = `${address} could not be loaded`; }}));
  }

  function start() {
    if (!root() || root().dataset.started) return;
    root().dataset.started = 'yes';
    if (!shards.length) { root().append(make('p', {textContent: 'No space has been published or saved yet.'})); return; }
    const field = (label, e) => make('label', {}, label + ' ', e), part = s => { const i = s.name.indexOf(', '); return i < 0 ? [s.name, 'as saved'] : [s.name.slice(0, i), s.name.slice(i + 2)]; };
    const data = make('select', {id: 'cm-x-data', onchange: () => { methods(method.selectedOptions[0].textContent); load(method.value); }}, ...[...new Set(shards.map(s => part(s)[0]))].map(n => make('option', {value: n, textContent: n}))), method = make('select', {id: 'cm-x-method', onchange: () => { kept = here && terms.map(([g, a, i]) => [g, here.views[a].name, here.views[a].ids[i]]); load(method.value); }});
    const methods = wanted => { const own = shards.filter(s => part(s)[0] === data.value); method.replaceChildren(...own.map(s => make('option', {value: s.address, textContent: part(s)[1], selected: part(s)[1] === wanted}))); };
    const restore = () => { const asked = new URLSearchParams(location.hash.slice(1)), s = shards.find(s => s.address === asked.get('shard')) || shards[0];
      data.value = part(s)[0]; methods(part(s)[1]); method.value = s.address; load(s.address, asked.get('terms') || s.terms, asked.get('spot')); };
    const canvas = make('canvas', {tabIndex: 0, role: 'application', 'aria-label': 'Map of the space. Arrows move, plus and minus zoom, Enter chooses the item nearest to the middle, D draws what lies there, where the space can draw. The list below holds the same items.'});
    root().append(
      make('div', {className: 'cm-x-bar'}, field('Data', data), field('Method', method), field('Colour', make('select', {id: 'cm-x-colour', onchange: () => draw()})),
        make('fieldset', {}, make('legend', {textContent: 'A click'}), ...[['new', 'asks'], ['plus', '+ adds'], ['minus', '− takes away']].map(([v, t], i) => make('label', {}, make('input', {type: 'radio', name: 'cm-mode', value: v, checked: !i}), ' ' + t)))),
      make('p', {className: 'cm-x-about'}), make('div', {className: 'cm-x-terms', role: 'group', 'aria-label': 'the query'}), make('p', {className: 'cm-x-said', 'aria-live': 'polite'}),
      make('div', {className: 'cm-x-body'}, make('div', {className: 'cm-x-map'}, canvas, make('div', {className: 'cm-x-zoom'}, ...[['+', 1.5], ['−', 1 / 1.5], ['whole', 0]].map(([t, f]) => make('button', {type: 'button', textContent: t, 'aria-label': f ? `zoom ${t}` : 'show the whole map', onclick: () => zoom(f || 1e-9)}))), make('div', {className: 'cm-x-legend'}), make('figure', {className: 'cm-x-drawn', hidden: true})), make('div', {className: 'cm-x-found'})),
      make('div', {className: 'cm-x-bar'}, field('Items of', make('select', {id: 'cm-x-view', onchange: listing})), field('named', make('input', {id: 'cm-x-filter', type: 'search', placeholder: 'type to filter', oninput: listing}))),
      make('div', {className: 'cm-x-list', role: 'group', 'aria-label': 'items'}));
    let drag = null;
    const share = e => { const b = canvas.getBoundingClientRect(); return [(e.clientX - b.left) / b.width - .5, (e.clientY - b.top) / b.height - .5]; };
    canvas.addEventListener('wheel', e => { e.preventDefault(); zoom(e.deltaY < 0 ? 1.25 : .8, ...share(e)); }, {passive: false});
    canvas.addEventListener('pointerdown', e => { drag = [e.clientX, e.clientY, view.x, view.y, false]; canvas.setPointerCapture(e.pointerId); });
    canvas.addEventListener('pointermove', e => { if (!drag) { const [, a, i] = pointed(e); canvas.title = a < 0 ? '' : said(here, a, i); return; }
      const dx = e.clientX - drag[0], dy = e.clientY - drag[1]; if (Math.hypot(dx, dy) > 4) drag[4] = true;
      if (drag[4] && view.k > 1) { view.x = drag[2] + dx / canvas.clientWidth / view.k / .92; view.y = drag[3] + dy / canvas.clientHeight / view.k / .92; draw(); } });
    canvas.addEventListener('pointerup', e => { const moved = drag && drag[4]; drag = null; if (moved) return; const [, a, i] = pointed(e);
      if (a >= 0) return choose(a, i);
      if (here.decoder) { const b = canvas.getBoundingClientRect(); imagine(...unplace(e.clientX - b.left - canvas.clientLeft, e.clientY - b.top - canvas.clientTop, canvas.clientWidth, canvas.clientHeight)); } });
    canvas.addEventListener('keydown', e => { const step = .1 / view.k, to = {ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step]}[e.key];
      if (e.ctrlKey || e.metaKey || e.altKey) return;
      if (to) { view.x += to[0]; view.y += to[1]; draw(); } else if (e.key === '+') zoom(1.5); else if (e.key === '-') zoom(1 / 1.5);
      else if (e.key === 'Enter') { const [, a, i] = middle(); choose(a, i); return e.preventDefault(); }
      else if (e.key.toLowerCase() === 'd' && here.decoder) { imagine(...unplace(canvas.clientWidth / 2, canvas.clientHeight / 2, canvas.clientWidth, canvas.clientHeight)); return e.preventDefault(); } else return;
      const [, a, i] = middle(); root().querySelector('.cm-x-said').textContent = `in the middle: ${said(here, a, i)}`; e.preventDefault(); });
    for (const what of ['focus', 'blur']) canvas.addEventListener(what, () => here && draw());
    canvas.addEventListener('pointercancel', () => { drag = null; });
    new ResizeObserver(() => here && draw()).observe(canvas);
    new MutationObserver(() => here && draw()).observe(document.documentElement, {attributes: true, attributeFilter: ['data-theme']});
    restore(); window.addEventListener('hashchange', restore);
  }
  document.addEventListener('DOMContentLoaded', start);
  return {list: l => { shards = l; }, shard: s => { known[s.address] = prepare(s); }, neighbours, known, between, pixels};
})();
