/// A piece of well-formed HTML or SVG: its text is escaped, its elements are closed.
struct HTML: Sendable, ExpressibleByStringInterpolation {
  private(set) var source = ""

  init(stringLiteral source: String) { self.source = source }
  init(stringInterpolation: StringInterpolation) { source = stringInterpolation.source }
  init(_ parts: [HTML]) { source = parts.map(\.source).joined(separator: "\n") }

  static func += (left: inout HTML, right: HTML) { left.source += right.source }

  /// What is interpolated is escaped, unless it is HTML already.
  struct StringInterpolation: StringInterpolationProtocol {
    var source = ""

    init(literalCapacity: Int, interpolationCount: Int) { source.reserveCapacity(literalCapacity * 2) }
    mutating func appendLiteral(_ literal: String) { source += literal }
    mutating func appendInterpolation(_ html: HTML) { source += html.source }
    mutating func appendInterpolation(_ parts: [HTML]) { source += HTML(parts).source }
    mutating func appendInterpolation(_ text: String) { source += Self.escaped(text) }
    mutating func appendInterpolation(_ number: Int) { source += String(number) }
    /// A length or place in a drawing.
    mutating func appendInterpolation(_ number: Double) { source += fixed(number, 1) }

    private static func escaped(_ text: String) -> String {
      var escaped = ""
      for character in text.unicodeScalars {
        switch character {
        case "&": escaped += "&amp;"
        case "<": escaped += "&lt;"
        case ">": escaped += "&gt;"
        case "\"": escaped += "&quot;"
        // No other control character may appear in a document.
        case "\n", "\t": escaped.unicodeScalars.append(character)
        default: if character.value >= 0x20 { escaped.unicodeScalars.append(character) }
        }
      }
      return escaped
    }
  }

  /// A table: the first column to the left and numbers to the right, or of words, which are all to the left and wrap.
  static func table(_ headings: [String], _ rows: [[HTML]], ofWords: Bool = false) -> HTML {
    let head = HTML(headings.map { "<th scope=\"col\">\($0)</th>" })
    let body = HTML(
      rows.map { row in
        let cells = HTML(row.enumerated().map { $0 == 0 ? "<th scope=\"row\">\($1)</th>" : "<td>\($1)</td>" })
        return "<tr>\(cells)</tr>"
      })
    return """
      <div class="wide"><table class="\(ofWords ? "words" : "numbers")"><thead><tr>\(head)</tr></thead>
      <tbody>\(body)</tbody></table></div>
      """
  }
}
