import Foundation
import Testing

@testable import RegisPay

@Suite("Settings")
struct SettingsTests {
  private static let definitions = [
    SettingDefinition("config", isForCommandLineOnly: true), SettingDefinition("port", default: "8080"),
    SettingDefinition("host", default: "127.0.0.1"), SettingDefinition("insecure", .flag),
    SettingDefinition("allowed-host", .list), SettingDefinition("max-body-bytes", default: "65536"),
    SettingDefinition("psp-token", isSecret: true),
  ]

  private func parse(_ text: String) -> SettingsFound { SettingsFile.parse(text, "a.yaml", Self.definitions) }

  private func values(_ found: SettingsFound) -> [String: [String]] {
    Dictionary(uniqueKeysWithValues: found.settings.map { ($0.name, $0.values) })
  }

  // MARK: - Files

  @Test("come from YAML or JSON, as they are written, with their lines")
  func files() {
    let yaml = parse(
      """
      # ours
      port: 0x10
      host: "::1"
      insecure: true

      allowed-host: [pay.example, 'shop.example']
      max-body-bytes: 1e3
      """)
    #expect(yaml.mistakes == [])
    #expect(
      values(yaml) == [
        "port": ["0x10"], "host": ["::1"], "insecure": ["true"], "allowed-host": ["pay.example", "shop.example"],
        "max-body-bytes": ["1e3"],
      ])
    #expect(yaml.settings.first { $0.name == "allowed-host" }?.source == .file("a.yaml", line: 6))
    let json = parse("{\n\"port\": 80, \"host\": \"a\",\n\"allowed-host\": \"one\", \"insecure\": false}")
    #expect(json.mistakes == [])
    #expect(values(json) == ["port": ["80"], "host": ["a"], "allowed-host": ["one"], "insecure": ["false"]])
    for nothing in ["", "# only this\n", "---\n", "null"] { #expect(parse(nothing) == SettingsFound(), "\(nothing)") }
  }

  @Test(
    "that can't be used are all named, each with its line",
    arguments: [
      ("prot: 1", "a.yaml line 1: there is no setting prot; did you mean port?"),
      ("\n\nsomething-else: 1", "a.yaml line 3: there is no setting something-else"),
      ("port:", "a.yaml line 1: port has no value"), ("port: ~", "a.yaml line 1: port has no value"),
      ("port: ''", "a.yaml line 1: port has no value"),
      ("port: [1]", "a.yaml line 1: port takes one value, not a list"),
      ("port: {a: 1}", "a.yaml line 1: port takes a value, not a mapping"),
      ("allowed-host: [[a]]", "a.yaml line 1: allowed-host takes a value, not a mapping"),
      ("insecure: yes", "a.yaml line 1: insecure must be true or false, not \"yes\""),
      ("insecure: 1", "a.yaml line 1: insecure must be true or false, not 1"),
      ("config: b.yaml", "a.yaml line 1: config can only be given on the command line, as --config"),
      ("? [a]\n: b", "a.yaml line 1: a name is expected"),
      ("- port", "a.yaml line 1: settings are written as name: value, each on its line"),
      ("port", "a.yaml line 1: settings are written as name: value, each on its line"),
      ("port: 1\nhost: a\nport: 2", "a.yaml line 3: port is named twice"),
      ("{\"port\": 1,\n \"port\" : 2}", "a.yaml line 2: port is named twice"),
      ("allowed-host: ['']", "a.yaml line 1: allowed-host has an empty value"),
      ("port: 1\n---\nport: 2", "a.yaml: line 2 is no YAML: but found another document"),
      ("host: \"a\\nb\"", "a.yaml line 1: host has a control character, such as a line break"),
      ("host: \"\\0\"", "a.yaml line 1: host has a control character, such as a line break"),
      ("psp-token: \"secret\\n\"", "a.yaml line 1: psp-token has a control character, such as a line break"),
    ])
  func mistakes(_ text: String, _ expected: String) {
    let found = parse(text)
    #expect(found.mistakes.count == 1)
    #expect(found.mistakes.first?.hasPrefix(expected) == true, "\(found.mistakes)")
    #expect(!"\(found.mistakes)".contains("secret"))
  }

  @Test("with several mistakes have all of them named, and the others are still read")
  func severalMistakes() {
    let found = parse("prot: 1\nport: 80\nhost:\n")
    #expect(found.mistakes.count == 2)
    #expect(values(found) == ["port": ["80"]])
  }

  @Test("of a file that is no file of text are refused, and no pipe is waited for")
  func noFiles() throws {
    try withFolder { folder in
      let bytes = folder + "/bytes"
      try Data([0xff, 0xfe, 0x00]).write(to: URL(fileURLWithPath: bytes))
      #expect(SettingsFile.read(bytes, Self.definitions).mistakes == ["\(bytes): the file is not UTF-8"])
      let pipe = folder + "/pipe"
      #expect(mkfifo(pipe, 0o600) == 0)
      #expect(SettingsFile.read(pipe, Self.definitions).mistakes == ["\(pipe) is no file"])
      #expect(SettingsFile.read(folder, Self.definitions).mistakes == ["\(folder) is no file"])
      #expect(
        SettingsFile.read(folder + "/none", Self.definitions).mistakes == [
          "can't open \(folder)/none: No such file or directory"
        ])
      let large = folder + "/large"
      try Data(repeating: 0x23, count: 2 << 20).write(to: URL(fileURLWithPath: large))
      #expect(
        SettingsFile.read(large, Self.definitions).mistakes.first?.hasPrefix("\(large) has 2097152 bytes") == true)
      // As Kubernetes mounts them.
      let link = folder + "/link"
      try Data("port: 1".utf8).write(to: URL(fileURLWithPath: folder + "/real"))
      try FileManager.default.createSymbolicLink(atPath: link, withDestinationPath: folder + "/real")
      #expect(values(SettingsFile.read(link, Self.definitions)) == ["port": ["1"]])
    }
  }

  @Test("nested deeper than any memory are refused", arguments: ["[", "a: {", "- "])
  func nested(_ opening: String) {
    #expect(parse(String(repeating: opening, count: 100_000)).mistakes.count == 1)
  }

  // MARK: - The environment

  private func read(_ environment: [String: String]) -> SettingsFound {
    EnvironmentSettings.read(environment, Self.definitions)
  }

  @Test("come from environment variables, and from files that these name")
  func environment() throws {
    try withFolder { folder in
      let path = folder + "/token"
      try Data("abc\n".utf8).write(to: URL(fileURLWithPath: path))
      let found = read([
        "REGISPAY_MAX_BODY_BYTES": "10", "REGISPAY_ALLOWED_HOST": "a, b", "REGISPAY_PSP_TOKEN_FILE": path,
        "REGISPAY_KEY": "rp_1", "HOME": "/",
      ])
      #expect(found.mistakes == [])
      #expect(values(found) == ["max-body-bytes": ["10"], "allowed-host": ["a", "b"], "psp-token": ["abc"]])
      #expect(
        found.settings.first { $0.name == "psp-token" }?.source
          == .variableFile("REGISPAY_PSP_TOKEN_FILE", path: path))
      #expect(
        read(["REGISPAY_PSP_TOKEN_FILE": path, "REGISPAY_PSP_TOKEN": "x"]).mistakes == [
          "environment variable REGISPAY_PSP_TOKEN_FILE: REGISPAY_PSP_TOKEN is set, too; set one of them"
        ])
      #expect(
        read(["REGISPAY_PSP_TOKEN_FILE": folder + "/none"]).mistakes.first?.contains("No such file or directory")
          == true)
    }
  }

  @Test("of the environment that nobody knows are refused, with a hint where Kubernetes sets them")
  func unknownVariables() {
    #expect(
      read(["REGISPAY_PROT": "1"]).mistakes == [
        "environment variable REGISPAY_PROT: there is no setting REGISPAY_PROT; did you mean REGISPAY_PORT?"
      ])
    #expect(read(["REGISPAY_CONFIG_FILE": "x"]).mistakes.count == 1)
    let service = read(["REGISPAY_SERVICE_HOST": "10.0.0.1", "REGISPAY_PORT_80_TCP": "tcp://10.0.0.1:80"])
    #expect(service.mistakes.count == 2)
    #expect(service.mistakes.allSatisfy { $0.contains("enableServiceLinks: false") })
    #expect(read(["REGISPAY_PORT": ""]).mistakes == ["environment variable REGISPAY_PORT: port has no value"])
  }

  @Test("come from systemd's credentials, of which those with other names are for others")
  func credentials() throws {
    try withFolder { folder in
      try Data("abc".utf8).write(to: URL(fileURLWithPath: folder + "/regispay.psp-token"))
      try Data("abc".utf8).write(to: URL(fileURLWithPath: folder + "/tls.key"))
      let found = EnvironmentSettings.credentials(folder, Self.definitions)
      #expect(found.mistakes == [])
      #expect(values(found) == ["psp-token": ["abc"]])
      try Data("abc".utf8).write(to: URL(fileURLWithPath: folder + "/regispay.psp-tokne"))
      #expect(
        EnvironmentSettings.credentials(folder, Self.definitions).mistakes == [
          "credential \(folder)/regispay.psp-tokne: there is no setting regispay.psp-tokne; did you mean regispay.psp-token?"
        ])
      #expect(EnvironmentSettings.credentials(nil, Self.definitions) == SettingsFound())
      #expect(EnvironmentSettings.credentials(folder + "/none", Self.definitions).mistakes.count == 1)
    }
  }

  // MARK: - All sources

  @Test("of the environment come before credentials, and these before the file; a list is not added to")
  func precedence() throws {
    try withFolder { folder in
      let file = folder + "/a.yaml"
      try Data("port: 1\nhost: file\nmax-body-bytes: 3\nallowed-host: [a, b]\n".utf8)
        .write(to: URL(fileURLWithPath: file))
      let credentials = folder + "/credentials"
      try FileManager.default.createDirectory(atPath: credentials, withIntermediateDirectories: false)
      for name in ["port", "host"] {
        try Data("2".utf8).write(to: URL(fileURLWithPath: credentials + "/regispay.\(name)"))
      }
      let found = Settings.read(
        Self.definitions, file: file,
        environment: [
          "REGISPAY_PORT": "4", "CREDENTIALS_DIRECTORY": credentials, "REGISPAY_ALLOWED_HOST": "c",
        ])
      #expect(found.mistakes == [])
      #expect(
        values(found) == ["port": ["4"], "host": ["2"], "max-body-bytes": ["3"], "allowed-host": ["c"]])
      #expect(
        found.settings.map(\.source) == [
          .variable("REGISPAY_PORT"), .credential(credentials + "/regispay.host"),
          .variable("REGISPAY_ALLOWED_HOST"), .file(file, line: 3),
        ])
      let all = Settings.read(Self.definitions, file: folder + "/none", environment: ["REGISPAY_X": "1"])
      #expect(all.mistakes.count == 2)
    }
  }

  @Test("in force are shown as YAML that says the same when it is read, but for the secrets")
  func shown() throws {
    let odd = #"a "b" \ c: #d é \#u{85}"#
    let settings = [
      Setting(definition: Self.definitions[2], values: [odd], source: .variable("REGISPAY_HOST")),
      Setting(definition: Self.definitions[3], values: ["true"], source: .commandLine),
      Setting(definition: Self.definitions[4], values: ["a", "yes", "-"], source: .file("a.yaml", line: 2)),
      Setting(definition: Self.definitions[6], values: ["topsecret"], source: .credential("/x/regispay.psp-token")),
    ]
    let text = Settings.text(Self.definitions, settings)
    #expect(!text.contains("topsecret"))
    #expect(text.contains("# psp-token: (hidden)"))
    #expect(text.contains(" # environment variable REGISPAY_HOST\n"))
    #expect(text.contains("port: 8080"))
    let found = parse(text)
    // The character that no option can have was shown as what it is.
    #expect(found.mistakes == ["a.yaml line 3: host has a control character, such as a line break"])
    #expect(
      values(found) == [
        "port": ["8080"], "insecure": ["true"], "allowed-host": ["a", "yes", "-"], "max-body-bytes": ["65536"],
      ])
  }

  @Test("with the name closest to a wrong one")
  func distance() {
    #expect(SettingNames.distance("", "abc") == 3)
    #expect(SettingNames.distance("kitten", "sitting") == 3)
    #expect(SettingNames.distance("port", "prot") == 2)
    #expect(SettingNames.distance("same", "same") == 0)
  }

  private func withFolder(_ work: (String) throws -> Void) throws {
    let folder = NSTemporaryDirectory() + "settings-\(UUID().uuidString)"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: false)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    try work(folder)
  }
}
