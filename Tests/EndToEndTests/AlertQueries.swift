import Foundation
import Testing

/// The metrics and labels that queries of PromQL name, found by their form: enough for the rules and the dashboard of this repository.
struct PromQuery: Sendable {
  struct Matcher: Sendable, Hashable {
    var label: String
    var isRegex: Bool
    var isNegative: Bool
    var value: String
  }

  /// A name with the matchers in the braces after it.
  struct Selector: Sendable, Hashable {
    var name: String
    var matchers: [Matcher] = []
  }

  private(set) var selectors: [Selector] = []
  /// Of `by`, `on` and `group_left`.
  private(set) var groupLabels: Set<String> = []

  private static let words: Set<String> = ["and", "or", "unless", "by", "on", "group_left", "without", "ignoring"]

  init(_ query: String) {
    // Labels in the brackets of a clause are no metrics.
    let withoutClauses = query.replacing(#/\b(by|on|group_left) ?\(([^)]*)\)/#) { clause in
      let labels = clause.output.2.split(whereSeparator: { $0 == "," || $0 == " " }).map(String.init)
      groupLabels.formUnion(labels)
      return " "
    }
    let withoutTexts = withoutClauses.replacing(#/\[[^\]]*\]/#, with: " ")
    for found in withoutTexts.matches(of: #/([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[^}]*\})?( *\()?/#) {
      let name = String(found.output.1)
      // A function, or a number such as 10e9.
      guard found.output.3 == nil, !Self.words.contains(name), !Self.isPartOfNumber(found.range, in: withoutTexts)
      else {
        continue
      }
      selectors.append(Selector(name: name, matchers: Self.matchers(found.output.2.map(String.init) ?? "")))
    }
  }

  private static func isPartOfNumber(_ range: Range<String.Index>, in text: String) -> Bool {
    range.lowerBound > text.startIndex && text[text.index(before: range.lowerBound)].isNumber
  }

  private static func matchers(_ braces: String) -> [Matcher] {
    braces.matches(of: #/(\w+) *(=~|!~|!=|=) *"([^"]*)"/#).map {
      Matcher(
        label: String($0.output.1), isRegex: $0.output.2.hasSuffix("~"), isNegative: $0.output.2.hasPrefix("!"),
        value: String($0.output.3))
    }
  }
}

/// What a server shows at `/metrics`, in Prometheus' text format.
struct ShownMetrics: Sendable {
  /// The labels of each series, by its name: `_bucket`, `_sum` and `_count` are names of their own.
  private(set) var series: [String: [[String: String]]] = [:]

  init(_ text: String) {
    for line in text.split(separator: "\n") where !line.hasPrefix("#") {
      guard let found = line.firstMatch(of: #/^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? /#) else { continue }
      var labels: [String: String] = [:]
      for pair in (found.output.2 ?? "").matches(of: #/(\w+)="([^"]*)"/#) {
        labels[String(pair.output.1)] = String(pair.output.2)
      }
      series[String(found.output.1), default: []].append(labels)
    }
  }

  func labels(of name: String) -> Set<String> { Set((series[name] ?? []).flatMap(\.keys)) }

  /// Whether a series of this name has the label, with a value that the matcher means.
  func contain(_ matcher: PromQuery.Matcher, of name: String) throws -> Bool {
    let values = (series[name] ?? []).compactMap { $0[matcher.label] }
    guard !matcher.isNegative else { return !values.isEmpty }
    guard matcher.isRegex else { return values.contains(matcher.value) }
    let regex = try Regex("^(?:\(matcher.value))$")
    return values.contains { $0.firstMatch(of: regex) != nil }
  }
}
