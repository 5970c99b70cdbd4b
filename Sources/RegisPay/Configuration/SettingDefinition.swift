/// A setting of the server: one option of `regispay serve`, by its long name without the dashes.
public struct SettingDefinition: Sendable, Hashable {
  public enum Kind: Sendable, Hashable {
    /// `true` or `false`.
    case flag
    case value
    /// Any number of values. The most important source that has some decides them all.
    case list
  }

  public var name: String
  public var kind: Kind
  /// As it is written; nil if the setting has none, or none that is the same everywhere.
  public var defaultValue: String?
  /// What it is for, in a sentence.
  public var summary: String
  /// What a value is or counts, such as `seconds`; nil for a flag, and for a value that says it itself.
  public var unit: String?
  /// The value is never shown.
  public var isSecret: Bool
  /// Takes effect at SIGHUP, without a restart.
  public var isReloadable: Bool
  /// Is for one start only: a source that stays would give it at each.
  public var isForCommandLineOnly: Bool

  public init(
    _ name: String, _ kind: Kind = .value, default defaultValue: String? = nil, summary: String = "",
    unit: String? = nil, isSecret: Bool = false, isReloadable: Bool = false, isForCommandLineOnly: Bool = false
  ) {
    self.name = name
    self.kind = kind
    self.defaultValue = defaultValue
    self.summary = summary
    self.unit = unit
    self.isSecret = isSecret
    self.isReloadable = isReloadable
    self.isForCommandLineOnly = isForCommandLineOnly
  }

  /// Its environment variable: `REGISPAY_MAX_BODY_BYTES` for `max-body-bytes`.
  public var variable: String { EnvironmentSettings.prefix + name.uppercased().replacing("-", with: "_") }
}

/// What a source says about one setting.
public struct Setting: Sendable, Hashable {
  public var definition: SettingDefinition
  /// One, unless it is a list. `true` or `false` for a flag.
  public var values: [String]
  public var source: SettingSource

  public init(definition: SettingDefinition, values: [String], source: SettingSource) {
    self.definition = definition
    self.values = values
    self.source = source
  }

  public var name: String { definition.name }

  /// The arguments of `regispay serve` that say the same.
  public var arguments: [String] {
    switch definition.kind {
    // The last word on it: false is the default of every flag.
    case .flag: values == ["true"] ? ["--\(name)"] : []
    // In one word: the value may begin with a dash.
    case .value, .list: values.map { "--\(name)=\($0)" }
    }
  }
}

/// Where a value comes from, from the most important to the least.
public enum SettingSource: Sendable, Hashable, CustomStringConvertible {
  case commandLine
  case variable(String)
  /// A file that an environment variable names.
  case variableFile(String, path: String)
  /// A file in systemd's directory of credentials.
  case credential(String)
  case file(String, line: Int)
  case builtIn

  public var description: String {
    switch self {
    case .commandLine: "command line"
    case .variable(let name): "environment variable \(name)"
    case .variableFile(let name, let path): "\(path), named by environment variable \(name)"
    case .credential(let path): "credential \(path)"
    case .file(let path, let line): "\(path) line \(line)"
    case .builtIn: "default"
    }
  }
}

/// Settings that can't be used: one line for each, which says where it is.
public struct SettingsError: Error, Sendable, Hashable, CustomStringConvertible {
  public var lines: [String]

  public init(_ lines: [String]) { self.lines = lines }

  init(_ source: SettingSource, _ reason: String) { self.init(["\(source): \(reason)"]) }

  public var description: String { lines.joined(separator: "\n") }
}
