import Yams

/// Reads settings from a YAML file, or a JSON file, which is YAML too: a mapping from settings' names to their values.
///
/// The file is read with the parser's marks, so that each mistake is reported with its line. A value is taken as it is written, and the
/// option it stands for decides what it means: YAML's own types would turn `1e3` or `0o17` into something else.
enum SettingsFile {
  static func read(_ path: String, _ definitions: [SettingDefinition]) -> SettingsFound {
    do {
      guard let text = String(validating: try SmallFile.readNamed(path), as: UTF8.self) else {
        return SettingsFound(mistake: "\(path): the file is not UTF-8")
      }
      return parse(text, path, definitions)
    } catch {
      return SettingsFound(mistake: "\(error)")
    }
  }

  static func parse(_ text: String, _ path: String, _ definitions: [SettingDefinition]) -> SettingsFound {
    var found = SettingsFound()
    let root: Node?
    do {
      root = try Yams.compose(yaml: text)
    } catch {
      if case YamlError.duplicatedKeysInMapping(let names, _) = error {
        return SettingsFound(mistakes: names.sorted().map { duplicate($0, text, path) })
      }
      return SettingsFound(mistake: "\(path): \(reason(error))")
    }
    // A file of comments only.
    guard let root, !isNull(root) else { return found }
    guard case .mapping(let mapping) = root else {
      return SettingsFound(
        mistake: "\(SettingSource.file(path, line: line(root))): settings are written as name: value, each on its line")
    }
    let known = Dictionary(uniqueKeysWithValues: definitions.map { ($0.name, $0) })
    for (key, value) in mapping {
      let source = SettingSource.file(path, line: line(key))
      found.add { () throws(SettingsError) in
        guard let name = key.scalar?.string else { throw SettingsError(source, "a name is expected") }
        guard let definition = known[name] else {
          throw SettingsError(source, SettingNames.unknown(name, definitions.map(\.name)))
        }
        return try setting(definition, value, source)
      }
    }
    return found
  }

  private static func setting(
    _ definition: SettingDefinition, _ node: Node, _ source: SettingSource
  ) throws(SettingsError) -> Setting {
    var values: [String] = []
    switch (node, definition.kind) {
    case (.sequence(let nodes), .list):
      for node in nodes { values.append(try value(node, definition, source)) }
    case (.sequence, _): throw SettingsError(source, "\(definition.name) takes one value, not a list")
    default: values = [try value(node, definition, source)]
    }
    return try Setting(definition: definition, values: values, source: source).checked()
  }

  private static func value(
    _ node: Node, _ definition: SettingDefinition, _ source: SettingSource
  ) throws(SettingsError) -> String {
    guard case .scalar(let scalar) = node else {
      throw SettingsError(source, "\(definition.name) takes a value, not a mapping")
    }
    guard !isNull(node) else { throw SettingsError(source, "\(definition.name) has no value") }
    return scalar.string
  }

  /// The parser tells no line for it.
  private static func duplicate(_ name: String, _ text: String, _ path: String) -> String {
    let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
    let last = lines.lastIndex { line in
      [name, "\"\(name)\"", "'\(name)'"].contains { key in
        guard let end = line.firstRange(of: key)?.upperBound else { return false }
        return line[end...].first { $0 != " " } == ":"
      }
    }
    return (last.map { "\(SettingSource.file(path, line: $0 + 1))" } ?? path) + ": \(name) is named twice"
  }

  private static func isNull(_ node: Node) -> Bool {
    guard case .scalar(let scalar) = node else { return false }
    return scalar.style == .plain && ["", "~", "null", "Null", "NULL"].contains(scalar.string)
  }

  private static func line(_ node: Node) -> Int { node.mark?.line ?? 1 }

  private static func reason(_ error: any Error) -> String {
    // Shows the lines around it as well, which may hold a secret.
    guard let error = error as? YamlError else { return "\(error)" }
    switch error {
    case .scanner(let context, let problem, let mark, _), .parser(let context, let problem, let mark, _),
      .composer(let context, let problem, let mark, _):
      return "line \(mark.line) is no YAML: \(problem)" + (context.map { ", \($0.text)" } ?? "")
    case .reader(let problem, _, _, _): return "the file is no YAML: \(problem)"
    default: return "the file is no YAML"
    }
  }
}
