// Charts, drawn as SVG without anything from elsewhere. Colours are the document's (see `Style`), by class.

/// Horizontal bars, one for each system, with the spread over the runs.
struct BarChart {
  struct Bar {
    var system: String
    var spread: Spread
  }

  var title: String
  var bars: [Bar]
  var unit: Unit
  /// A target line, and its name.
  var mark: (value: Double, name: String)?
  /// As even as possible, whatever the distances.
  var isAlwaysLinear = false

  private static let (left, right, rowHeight) = (70.0, 76.0, 30.0)

  var svg: HTML {
    let axis =
      isAlwaysLinear
      ? Axis(linearTo: max(bars.map(\.spread.max).max() ?? 1, mark?.value ?? 0))
      : Axis(fitting: bars.flatMap { [$0.spread.min, $0.spread.max] }, floor: 0)
    let plot = Plot(
      left: Self.left, right: Self.right, top: mark == nil ? 8 : 24, height: Double(bars.count) * Self.rowHeight)
    var drawing = plot.grid(axis, unit)
    for (index, bar) in bars.enumerated() {
      let middle = plot.top + (Double(index) + 0.5) * Self.rowHeight
      let end = plot.x(axis.place(bar.spread.median))
      let (low, high) = (plot.x(axis.place(bar.spread.min)), plot.x(axis.place(bar.spread.max)))
      drawing += """
        <text class="name" x="\(plot.left - 6)" y="\(middle + 4)">\(bar.system)</text>
        <rect class="fill \(bar.system)" x="\(plot.left)" y="\(middle - 9)" width="\(max(1, end - plot.left))" height="18"/>
        <path class="whisker" d="M\(low) \(middle)H\(high)M\(low) \(middle - 4)V\(middle + 4)M\(high) \(middle - 4)V\(middle + 4)"/>
        <text class="value" x="\(plot.rightEdge + 8)" y="\(middle + 4)">\(unit.text(bar.spread.median))</text>
        """
    }
    if let mark { drawing += plot.mark(axis.place(mark.value), mark.name) }
    let note = axis.isLogarithmic ? " (logarithmic)" : ""
    return plot.figure(title + note, drawing)
  }
}

/// Percentiles of call times, one line of marks for each system; logarithmic.
struct LatencyChart {
  var title: String
  var rows: [(system: String, percentiles: Percentiles)]
  var mark: (microseconds: Double, name: String)?

  private static let (left, right, rowHeight) = (70.0, 28.0, 30.0)
  /// Shorter times than this many microseconds are drawn here.
  private static let floor = 0.1

  var svg: HTML {
    let axis = Axis(
      logarithmic: rows.flatMap { [$0.percentiles.p50, $0.percentiles.max] } + (mark.map { [$0.microseconds] } ?? []),
      floor: Self.floor)
    let plot = Plot(
      left: Self.left, right: Self.right, top: mark == nil ? 8 : 24, height: Double(rows.count) * Self.rowHeight,
      below: 22)
    var drawing = plot.grid(axis, .microseconds)
    for (index, row) in rows.enumerated() {
      let y = plot.top + (Double(index) + 0.5) * Self.rowHeight
      let x = row.percentiles.values.map { plot.x(axis.place($0)) }
      drawing += """
        <text class="name" x="\(plot.left - 6)" y="\(y + 4)">\(row.system)</text>
        <path class="line thin \(row.system)" d="M\(x[0]) \(y)H\(x[4])"/>
        <path class="line thick \(row.system)" d="M\(x[0]) \(y)H\(x[2])"/>
        \(Self.marks(x, y, row.system))
        """
    }
    let legend = plot.bottom + 34
    for (index, name) in Percentiles.names.enumerated() {
      let at = plot.left + Double(index) * 66
      drawing += Self.marks(shape: index, at, legend, "limit")
      drawing += "<text class=\"tick start\" x=\"\(at + 8)\" y=\"\(legend + 4)\">\(name)</text>"
    }
    if let mark { drawing += plot.mark(axis.place(mark.microseconds), mark.name) }
    return plot.figure(title + " (logarithmic)", drawing)
  }

  private static func marks(_ x: [Double], _ y: Double, _ system: String) -> HTML {
    HTML(x.enumerated().map { marks(shape: $0, $1, y, system) })
  }

  /// A filled circle for the median, a diamond for p99, a ring for the greatest, strokes between.
  private static func marks(shape: Int, _ x: Double, _ y: Double, _ system: String) -> HTML {
    switch shape {
    case 0: "<circle class=\"fill \(system)\" cx=\"\(x)\" cy=\"\(y)\" r=\"5\"/>"
    case 2: "<path class=\"fill \(system)\" d=\"M\(x) \(y - 6)L\(x + 5) \(y)L\(x) \(y + 6)L\(x - 5) \(y)Z\"/>"
    case 4: "<circle class=\"ring \(system)\" cx=\"\(x)\" cy=\"\(y)\" r=\"4\"/>"
    default: "<path class=\"line thick \(system)\" d=\"M\(x) \(y - 5)V\(y + 5)\"/>"
    }
  }
}

/// Lines over time, or over the size of a log.
struct LineChart {
  struct Series {
    var name: String
    /// One of the document's colours.
    var color: String
    /// A value for each position on the axis; nil if there is none.
    var values: [Double?]
  }

  var title: String
  /// Names of the positions; as many are drawn as there is room for.
  var places: [String]
  var series: [Series]
  var unit: Unit
  var mark: (value: Double, name: String)?
  var isAlwaysLinear = false

  private static let (left, right, height) = (66.0, 22.0, 150.0)

  var svg: HTML {
    let values = series.flatMap { $0.values.compactMap { $0 } } + (mark.map { [$0.value] } ?? [])
    let axis = isAlwaysLinear ? Axis(linearTo: values.max() ?? 1, of: unit.size) : Axis(fitting: values, floor: 0)
    let plot = Plot(left: Self.left, right: Self.right, top: mark == nil ? 8 : 22, height: Self.height, below: 22)
    var drawing = HTML("")
    for tick in axis.ticks {
      let y = plot.bottom - axis.place(tick) * plot.height
      drawing += """
        <path class="grid" d="M\(plot.left) \(y)H\(plot.rightEdge)"/>
        <text class="tick end" x="\(plot.left - 6)" y="\(y + 4)">\(unit.text(tick))</text>
        """
    }
    let every = max(1, (places.count + 5) / 6)
    for (index, place) in places.enumerated() where index % every == 0 {
      drawing += "<text class=\"tick\" x=\"\(x(index, plot))\" y=\"\(plot.bottom + 16)\">\(place)</text>"
    }
    if let mark {
      let y = plot.bottom - axis.place(mark.value) * plot.height
      drawing += """
        <path class="mark" d="M\(plot.left) \(y)H\(plot.rightEdge)"/>
        <text class="marked end" x="\(plot.rightEdge)" y="\(y - 4)">\(mark.name)</text>
        """
    }
    for (index, line) in series.enumerated() {
      drawing += Self.draw(line, axis, plot) { x($0, plot) }
      let at = plot.left + Double(index) * 92
      drawing += """
        <path class="line thick \(line.color)" d="M\(at) \(plot.bottom + 34)h14"/>
        <text class="tick start" x="\(at + 18)" y="\(plot.bottom + 38)">\(line.name)</text>
        """
    }
    return plot.figure(title + (axis.isLogarithmic ? " (logarithmic)" : ""), drawing)
  }

  private func x(_ index: Int, _ plot: Plot) -> Double {
    plot.x(places.count > 1 ? 0.04 + 0.92 * Double(index) / Double(places.count - 1) : 0.5)
  }

  private static func draw(_ line: Series, _ axis: Axis, _ plot: Plot, _ x: (Int) -> Double) -> HTML {
    var path = ""
    var dots = HTML("")
    var isDrawing = false
    for (index, value) in line.values.enumerated() {
      guard let value else {
        isDrawing = false
        continue
      }
      let y = plot.bottom - axis.place(value) * plot.height
      path += "\(isDrawing ? "L" : "M")\(fixed(x(index), 1)) \(fixed(y, 1))"
      isDrawing = true
      // Over many places the dots would hide the line.
      if line.values.count <= 20 {
        dots += "<circle class=\"fill \(line.color)\" cx=\"\(x(index))\" cy=\"\(y)\" r=\"3.5\"/>"
      }
    }
    return path.isEmpty ? "" : "<path class=\"line \(line.color)\" d=\"\(path)\"/>\(dots)"
  }
}

/// The rectangle in which values are drawn, in a drawing of fixed width that is scaled to its place on the page.
private struct Plot {
  static let width = 440.0
  var left: Double
  var right: Double
  var top: Double
  var height: Double
  /// Room for a legend below the labels of the axis.
  var below = 0.0

  var rightEdge: Double { Self.width - right }
  var bottom: Double { top + height }

  func x(_ part: Double) -> Double { left + part * (rightEdge - left) }

  /// Vertical lines at the ticks, with labels below.
  func grid(_ axis: Axis, _ unit: Unit) -> HTML {
    HTML(
      axis.ticks.map { tick in
        """
        <path class="grid" d="M\(x(axis.place(tick))) \(top)V\(bottom)"/>
        <text class="tick" x="\(x(axis.place(tick)))" y="\(bottom + 16)">\(unit.text(tick))</text>
        """
      })
  }

  /// A vertical target line, with its name above.
  func mark(_ part: Double, _ name: String) -> HTML {
    let anchor = part > 0.8 ? "end" : part < 0.2 ? "start" : ""
    return """
      <path class="mark" d="M\(x(part)) \(top - 6)V\(bottom)"/>
      <text class="marked \(anchor)" x="\(x(part))" y="\(top - 10)">\(name)</text>
      """
  }

  func figure(_ title: String, _ drawing: HTML) -> HTML {
    """
    <figure><figcaption>\(title)</figcaption>
    <svg viewBox="0 0 \(Self.width) \(bottom + 24 + below)" role="img" aria-label="\(title)">\(drawing)</svg></figure>
    """
  }
}
