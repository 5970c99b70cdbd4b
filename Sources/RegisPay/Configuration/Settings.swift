/// The settings that sources other than the command line give a server.
public enum Settings {
  /// Reads all sources.
  ///
  /// - Parameters:
  ///   - file: the path of the configuration file; nil for none.
  ///   - environment: the process's.
  /// - Returns: for each setting that a source has, what the most important source says; and the mistakes of all sources.
  public static func read(
    _ definitions: [SettingDefinition], file: String?, environment: [String: String]
  ) -> SettingsFound {
    let sources = [
      EnvironmentSettings.read(environment, definitions),
      EnvironmentSettings.credentials(environment["CREDENTIALS_DIRECTORY"], definitions),
      file.map { SettingsFile.read($0, definitions) } ?? SettingsFound(),
    ]
    let settings = Dictionary(sources.flatMap(\.settings).map { ($0.name, $0) }) { first, _ in first }
    return SettingsFound(
      settings: definitions.compactMap { settings[$0.name] }, mistakes: sources.flatMap(\.mistakes))
  }

  /// All settings in force, as YAML that can be read again, but for the secrets: each with its source as a comment.
  public static func text(_ definitions: [SettingDefinition], _ settings: [Setting]) -> String {
    let lines = ShownSetting.all(definitions, settings).map { setting -> (text: String, comment: String) in
      let name = setting.definition.name
      guard let source = setting.source else { return ("# \(name):", "not set") }
      guard let values = setting.values else { return ("# \(name): (hidden)", "\(source)") }
      let value =
        switch setting.definition.kind {
        case .flag: values.joined()
        case .value: YAMLText.scalar(values.joined())
        case .list: "[" + values.map(YAMLText.scalar).joined(separator: ", ") + "]"
        }
      return ("\(name): \(value)", "\(source)")
    }
    let width = min(48, lines.map(\.text.count).max() ?? 0)
    return lines.map { text, comment in
      text + String(repeating: " ", count: max(0, width - text.count)) + "  # \(YAMLText.comment(comment))\n"
    }.joined()
  }
}

/// What sources say, and what of it can't be used: one line for each mistake, which says where it is.
public struct SettingsFound: Sendable, Hashable {
  public var settings: [Setting] = []
  public var mistakes: [String] = []

  init(settings: [Setting] = [], mistakes: [String] = []) {
    self.settings = settings
    self.mistakes = mistakes
  }

  init(mistake: String) { mistakes = [mistake] }

  mutating func add(_ read: () throws(SettingsError) -> Setting) {
    do throws(SettingsError) {
      settings.append(try read())
    } catch {
      mistakes += error.lines
    }
  }
}

extension Setting {
  /// Refuses what no option can be.
  func checked() throws(SettingsError) -> Setting {
    guard !definition.isForCommandLineOnly else {
      throw SettingsError(source, "\(name) can only be given on the command line, as --\(name)")
    }
    switch definition.kind {
    case .flag:
      guard values == ["true"] || values == ["false"] else {
        throw SettingsError(source, "\(name) must be true or false\(shown)")
      }
    case .value:
      guard values.first?.isEmpty == false else { throw SettingsError(source, "\(name) has no value") }
    case .list:
      guard !values.contains("") else { throw SettingsError(source, "\(name) has an empty value") }
    }
    guard !values.contains(where: { $0.unicodeScalars.contains { $0.properties.generalCategory == .control } }) else {
      throw SettingsError(source, "\(name) has a control character, such as a line break")
    }
    return self
  }

  private var shown: String { definition.isSecret ? "" : ", not \(YAMLText.scalar(values.joined(separator: ", ")))" }
}

/// Finds the name that somebody may have meant.
enum SettingNames {
  static func unknown(_ name: String, _ names: [String]) -> String {
    let closest = names.min { distance(name, $0) < distance(name, $1) }
    let suggestion = closest.flatMap { distance(name, $0) <= max(2, name.count / 4) ? "; did you mean \($0)?" : nil }
    return "there is no setting \(YAMLText.scalar(name))" + (suggestion ?? "")
  }

  /// Insertions, removals and changes of characters from one to the other (Levenshtein's distance), in time proportional to the
  /// product of the lengths.
  static func distance(_ one: String, _ other: String) -> Int {
    // Far longer than any setting's name.
    let (one, other) = (Array(one.prefix(64)), Array(other.prefix(64)))
    var row = Array(0...other.count)
    for (i, character) in one.enumerated() {
      var diagonal = row[0]
      row[0] = i + 1
      for j in other.indices {
        let changed = diagonal + (character == other[j] ? 0 : 1)
        diagonal = row[j + 1]
        row[j + 1] = min(changed, row[j] + 1, diagonal + 1)
      }
    }
    return row[other.count]
  }
}

/// Writes YAML.
enum YAMLText {
  private static let plain: Set<Character> = Set(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:%+=")
  /// YAML reads these as something else than text.
  private static let words: Set<String> = ["null", "true", "false", "yes", "no", "on", "off"]

  /// The text as a value: quoted if it must be.
  static func scalar(_ text: String) -> String {
    let isPlain =
      text.allSatisfy(plain.contains) && text.first.map { !"-:%=".contains($0) } == true && text.last != ":"
      && !words.contains(text.lowercased())
    guard !isPlain else { return text }
    var quoted = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": quoted += "\\\""
      case "\\": quoted += "\\\\"
      case _ where scalar.properties.generalCategory == .control || scalar.value == 0x2028 || scalar.value == 0x2029:
        let digits = String(scalar.value, radix: 16)
        quoted += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
      default: quoted.unicodeScalars.append(scalar)
      }
    }
    return quoted + "\""
  }

  /// The text on one line.
  static func comment(_ text: String) -> String {
    String(text.map { $0.isNewline ? " " : $0 })
  }
}
