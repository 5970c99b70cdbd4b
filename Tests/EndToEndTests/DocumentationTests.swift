import Foundation
import Testing

/// LogStore's documentation, its comments and `Sources/LogStore/LogStore.docc`, built with the tools of the toolchain from the
/// modules and objects of the build that the tests are from. So nothing is compiled but the articles' examples.
@Suite struct DocumentationTests {
  @Test("every public symbol of LogStore has documentation")
  func symbols() async throws {
    try await withTemporaryFolder { folder in
      let graph = try await BuiltLogStore.symbolGraph(in: folder)
      let symbols = try JSONDecoder().decode(SymbolGraph.self, from: Data(contentsOf: graph)).symbols
      #expect(symbols.count > 200)
      #expect(symbols.filter { !$0.isDocumented }.map(\.name) == [])
    }
  }

  @Test("the documentation builds without a warning: every link leads somewhere, every parameter is named as it is")
  func builds() async throws {
    try await withTemporaryFolder { folder in
      let graph = try await BuiltLogStore.symbolGraph(in: folder)
      let convert = CommandBlock(
        document: "", heading: "",
        lines: [
          #"tools="$(dirname "$(readlink -f "$(command -v swift)")")""#,
          """
          "$tools/docc" convert '\(Article.catalogue.path)' --additional-symbol-graph-dir \
          '\(graph.deletingLastPathComponent().path)' --fallback-bundle-identifier LogStore --output-path archive \
          --warnings-as-errors
          """,
        ])
      try await convert.run(in: folder)
      let page = folder + "/archive/data/documentation/logstore/gettingstarted.json"
      #expect(FileManager.default.fileExists(atPath: page))
    }
  }

  @Test(
    "the examples of an article, one after the other, are a program that prints what the article says",
    arguments: try Article.all().filter { !$0.program.isEmpty })
  func examples(article: Article) async throws {
    try await withTemporaryFolder { folder in
      try article.program.write(toFile: folder + "/main.swift", atomically: true, encoding: .utf8)
      let files = try BuiltLogStore.objects().map { "'\($0)'" }.joined(separator: " ")
      let run = CommandBlock(
        document: article.name, heading: "",
        lines: [
          "swiftc -swift-version 6 -warnings-as-errors \(BuiltLogStore.moduleFlags) main.swift \(files) -o program >&2",
          "timeout 30 ./program",
        ])
      let printed = try await run.run(in: folder)
      #expect(printed == article.output)
    }
  }

  @Test("what an article puts into a manifest is what README puts there, which is built")
  func manifests() throws {
    let readme = try String(contentsOf: CommandBlock.repository.appendingPathComponent("README.md"), encoding: .utf8)
    let manifests = try Article.all().flatMap(\.manifests)
    #expect(!manifests.isEmpty)
    for manifest in manifests { #expect(readme.contains("```swift\n\(manifest)```")) }
  }
}

/// An article of LogStore's documentation.
struct Article: Sendable, CustomTestStringConvertible {
  let name: String
  private let text: String

  static let catalogue = CommandBlock.repository.appendingPathComponent("Sources/LogStore/LogStore.docc")

  static func all() throws -> [Article] {
    let files = try FileManager.default.contentsOfDirectory(atPath: catalogue.path).filter { $0.hasSuffix(".md") }
    return try files.sorted().map { name in
      Article(name: name, text: try String(contentsOf: catalogue.appendingPathComponent(name), encoding: .utf8))
    }
  }

  var testDescription: String { name }

  /// Its Swift, without manifests.
  var program: String { blocks("swift").filter { !Self.isManifest($0) }.joined(separator: "\n") }
  var manifests: [String] { blocks("swift").filter(Self.isManifest) }
  /// What it says that the program prints.
  var output: String { blocks("text").joined() }

  private static func isManifest(_ block: String) -> Bool { block.hasPrefix("dependencies:") }

  /// The fenced blocks in a language.
  private func blocks(_ language: String) -> [String] {
    text.components(separatedBy: "```\(language)\n").dropFirst().map { $0.components(separatedBy: "```")[0] }
  }
}

/// The library LogStore as it was built together with the tests.
private enum BuiltLogStore {
  private static let cTargets = ["CChecksum", "CLinux"]
  private static var build: String { RegisPayProcess.buildFolder.path }
  private static var sources: String { CommandBlock.repository.appendingPathComponent("Sources").path }

  /// What the compiler needs to import it.
  static var moduleFlags: String {
    let maps = cTargets.map { "-Xcc '-fmodule-map-file=\(build)/\($0).build/module.modulemap'" }
    return (["-I '\(build)/Modules'", "-I '\(sources)/CLZ4'"] + maps).joined(separator: " ")
  }

  /// Its object files, and those of its C targets: one for each source, since objects of removed sources stay in the folder.
  static func objects() throws -> [String] {
    try (["LogStore"] + cTargets).flatMap { target in
      let files = try FileManager.default.subpathsOfDirectory(atPath: "\(sources)/\(target)")
      return files.filter { $0.hasSuffix(".swift") || $0.hasSuffix(".c") }
        .map { "\(build)/\(target).build/\(($0 as NSString).lastPathComponent).o" }
    }
  }

  /// The public symbols, without those that the compiler makes.
  static func symbolGraph(in folder: String) async throws -> URL {
    let graphs = folder + "/graphs"
    try FileManager.default.createDirectory(atPath: graphs, withIntermediateDirectories: true)
    let triple = RegisPayProcess.buildFolder.deletingLastPathComponent().lastPathComponent
    let extract = CommandBlock(
      document: "", heading: "",
      lines: [
        """
        swift symbolgraph-extract -module-name LogStore -target \(triple) \(moduleFlags) -output-dir '\(graphs)' \
        -minimum-access-level public -skip-synthesized-members >&2
        """
      ])
    try await extract.run(in: folder)
    return URL(fileURLWithPath: graphs + "/LogStore.symbols.json")
  }
}

/// The part of a symbol graph that is looked at.
private struct SymbolGraph: Decodable {
  struct Symbol: Decodable {
    struct Comment: Decodable {
      struct Line: Decodable {
        var text: String
      }

      var lines: [Line]
    }

    var pathComponents: [String]
    /// Its own, or that of the requirement that it fulfils.
    var docComment: Comment?

    var name: String { pathComponents.joined(separator: ".") }
    var isDocumented: Bool { docComment?.lines.contains { !$0.text.isEmpty } ?? false }
  }

  var symbols: [Symbol]
}
