// Tables of class cm-sortable: sorted, filtered, searched and paged by DataTables; the address keeps the choice.
// Beside such a table lies its data: columns, words, rows of numbers of words, selectors, metrics, links to pages.
(() => {
  const escape = text => String(text).replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`);
  const two = text => {           // a value, and what belongs to it in small print
    const [first, ...details] = text.split(' ');
    return escape(first) + (details.length ? ` <small>${escape(details.join(' '))}</small>` : '');
  };
  const number = text => parseFloat(text.replace('−', '-').replace(/,/g, ''));
  const last = sign => (a, b) => isNaN(a) - isNaN(b) || sign * (a - b) || 0;   // what is no number stands last
  const make = (tag, properties = {}, ...inner) => {
    const e = Object.assign(document.createElement(tag), properties);
    e.append(...inner);
    return e;
  };

  function start(table) {
    const box = table.closest('.cm-lines'), data = JSON.parse(box.querySelector('script').textContent);
    const rows = data.rows.map(r => Object.fromEntries(data.columns.map((c, i) => [c, data.words[r[i]]])));
    const heads = [...table.tHead.rows[0].cells].map(h => h.textContent);
    const filters = [...data.selectors, 'metric'], chosen = {}, selects = {};
    const passes = (row, except) => data.selectors.every(f => f === except || !chosen[f] || row[f] === chosen[f])
      && (except === 'metric' || !chosen.metric || row[chosen.metric] !== '');

    const link = (address, words) => `<a href="${escape(address)}">${escape(words)}</a>`;
    const shown = {
      method: row => `<button type="button" class="cm-more" aria-expanded="false">${escape(row.method)}</button>`,
      entry: row => row.entry in data.links ? link(data.links[row.entry][row.entry], row.entry) : escape(row.entry),
      score: row => two(row[chosen.metric || 'score']),
    };
    const cell = name => (value, purpose, row) => {
      if (purpose === 'display') return shown[name] ? shown[name](row) : data.numbers.includes(name) ? two(row[name]) : escape(row[name]);
      if (purpose === 'filter') return name === 'method' ? Object.values(row).join(' ') : '';   // a search reads the whole line
      return name === 'score' ? row[chosen.metric || 'score'] : row[name];
    };
    const details = row => {
      const facts = data.columns.filter(c => !heads.includes(c) && row[c] !== '').map(c => `<dt>${escape(c)}</dt><dd>${escape(row[c])}</dd>`);
      const pages = Object.entries(data.links[row.entry] || {}).map(([words, address]) => link(address, words));
      const ranking = link(`#ranking_${row.ranking}`, 'all lines of its ranking');
      return `<dl class="cm-facts">${facts.join('')}<dt>more</dt><dd>${[ranking, ...pages].join(' · ')}</dd></dl>`;
    };

    const bar = make('div', {className: 'cm-bar'}), note = make('p', {className: 'cm-note', role: 'status'});
    for (const f of filters) {
      const select = make('select', {onchange: () => { chosen[f] = select.value; if (f === 'metric') grid.order([]); show(); }});
      selects[f] = select;
      bar.append(make('label', {}, f, select));
    }
    bar.append(make('button', {type: 'button', textContent: 'show all', onclick: () => choose(new URLSearchParams())}));

    table.tBodies[0].replaceChildren();
    box.querySelector('.cm-plain')?.remove();
    box.querySelector('.cm-scroll').removeAttribute('tabindex');
    cmDataTable.type('cm-number', {order: {pre: number, asc: last(1), desc: last(-1)}});
    const grid = new cmDataTable(table, {
      data: rows, order: [], autoWidth: false, pageLength: 25, lengthMenu: [25, 100, {label: 'all', value: -1}],
      layout: {top: () => bar, topStart: 'search', topEnd: () => note, bottomStart: 'info', bottomEnd: ['pageLength', 'paging'], bottom: null},
      language: {search: 'search', lengthMenu: '_MENU_ a page', info: '_START_–_END_ of _TOTAL_ lines', infoEmpty: 'no lines', infoFiltered: '(_MAX_ in all)', zeroRecords: 'no line is so'},
      columns: heads.map(name => ({
        data: null, render: cell(name), className: `cm-${name.replace(/ /g, '-')}`, cellType: name === 'method' ? 'th' : 'td',
        type: data.numbers.includes(name) ? 'cm-number' : 'string', orderSequence: data.numbers.includes(name) ? ['desc', 'asc', ''] : ['asc', 'desc', ''],
        createdCell: e => { if (name === 'method') e.scope = 'row'; },
      })),
    });
    grid.search.fixed('chosen', (text, row) => passes(row));
    grid.table().container().querySelector('.dt-layout-table').tabIndex = 0;

    let metric;
    function show() {
      for (const f of filters) {
        const possible = rows.filter(row => passes(row, f));
        const names = f === 'metric' ? data.metrics.filter(m => possible.some(row => row[m] !== '')) : [...new Set(possible.map(row => row[f]))];
        if (chosen[f] && !names.includes(chosen[f])) names.push(chosen[f]);
        selects[f].replaceChildren(new Option(f === 'metric' ? 'rsum or mAP' : 'all', ''), ...names.map(n => new Option(n, n)));
        selects[f].value = chosen[f] || '';
      }
      if (metric !== chosen.metric) {
        grid.rows().every(function () { this.child.hide(); });
        grid.rows().invalidate('data');
        grid.column(heads.indexOf('score')).title(chosen.metric || 'score');
        metric = chosen.metric;
      }
      const rankings = new Map(rows.filter(row => passes(row)).map(row => [row.ranking, row.protocol]));
      note.textContent = rankings.size === 1 ? `One ranking: ${[...rankings.values()][0]}.` : `${rankings.size} rankings; letters and differences hold within one.`;
      grid.draw();
    }
    const keep = () => {
      const state = new URLSearchParams(filters.filter(f => chosen[f]).map(f => [f, chosen[f]])), [order] = grid.order();
      if (grid.search()) state.set('search', grid.search());
      if (order?.[1]) state.set('sort', `${heads[order[0]]}:${order[1]}`);
      if (`${state}` || /=|^#ranking_/.test(location.hash)) try { history.replaceState(null, '', `#${state}`); } catch (e) { /* some browsers refuse this for files */ }
    };
    function choose(state) {
      const [name, direction] = (state.get('sort') || '').split(':');
      for (const f of filters) chosen[f] = state.get(f) || '';
      grid.search(state.get('search') || '').order(heads.includes(name) ? [[heads.indexOf(name), direction]] : []);
      show();
    }
    function restore() {       // `#column=value&…`, or `#ranking_NAME`, which leads somewhere without this script, too
      const hash = decodeURIComponent(location.hash.replace(/\+/g, ' ')), [, ranking] = hash.match(/^#ranking_(.+)/) || [];
      const state = ranking ? {ranking} : location.hash.slice(1), asked = ranking || hash.includes('=');
      if (asked) box.scrollIntoView();
      if (asked || !hash) choose(new URLSearchParams(state));       // else it is the address of a section
    }
    choose(new URLSearchParams());
    restore();
    grid.on('draw', keep);
    window.addEventListener('hashchange', restore);

    grid.on('click', 'tbody tr', event => {
      const at = event.target.closest('tr');
      if (event.target.closest('a, .cm-facts') || !at.querySelector('.cm-more') || (getSelection().type === 'Range')) return;
      const row = grid.row(at), open = !row.child.isShown();
      open ? row.child(details(row.data()), 'cm-opened').show() : row.child.hide();
      at.querySelector('.cm-more').setAttribute('aria-expanded', open);
    });
    table.dataset.ready = rows.length;
  }
  document.querySelectorAll('table.cm-sortable').forEach(start);
})();
