'use strict';
// Values at the pointer, in the place of the last ones.
for (const chart of document.querySelectorAll('.chart')) {
  const svg = chart.querySelector('svg');
  const cursor = chart.querySelector('.cursor');
  const at = chart.querySelector('.at');
  const values = chart.querySelectorAll('.legend b');
  const lines = Array.from(chart.querySelectorAll('.line'), (path) => ({
    x: path.dataset.x.split(' ').map(Number),
    y: path.dataset.y.split(' '),
  }));
  const ends = [Math.min(...lines.map((line) => line.x[0])), Math.max(...lines.map((line) => line.x[line.x.length - 1]))];
  const left = Number(svg.dataset.left), right = Number(svg.dataset.right);

  function nearest(numbers, wanted) {
    let low = 0, high = numbers.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (numbers[middle] < wanted) low = middle; else high = middle;
    }
    return wanted - numbers[low] <= numbers[high] - wanted ? low : high;
  }

  function show(event) {
    const box = svg.getBoundingClientRect();
    const place = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    const share = Math.min(1, Math.max(0, (place - left) / (right - left)));
    const wanted = ends[0] + share * (ends[1] - ends[0]);
    const points = lines.map((line) => nearest(line.x, wanted));
    const closest = lines.map((line, number) => line.x[points[number]])
      .reduce((best, x) => Math.abs(x - wanted) < Math.abs(best - wanted) ? x : best);
    const drawn = ends[1] > ends[0] ? left + (closest - ends[0]) / (ends[1] - ends[0]) * (right - left) : (left + right) / 2;
    cursor.setAttribute('x1', drawn);
    cursor.setAttribute('x2', drawn);
    at.textContent = `at ${at.dataset.unit} ${closest}`;
    values.forEach((value, number) => { value.textContent = lines[number].y[points[number]]; });
  }

  function reset() {
    cursor.setAttribute('x1', -9);
    cursor.setAttribute('x2', -9);
    at.textContent = '';
    values.forEach((value) => { value.textContent = value.dataset.last; });
  }

  svg.addEventListener('pointermove', show);
  svg.addEventListener('pointerdown', show);
  svg.addEventListener('pointerleave', reset);
}
