"""German words for the gates: data only, in the form of `lexicon_en`."""

from __future__ import annotations

STOP = """
der die das den dem des ein eine einen einem einer eines und oder aber auch als am an auf aus bei bin bis bist da dabei dafür damit dann daran darauf
dass dein deine dem denn dies diese diesem diesen dieser dieses doch dort du durch er es euch euer für gegen geht gehen gibt hab habe haben hat hatte
hätte ich ihm ihn ihnen ihr ihre ihrem ihren ihrer im in ins ist ja jede jedem jeden jeder jedes jetzt kann kannst kein keine keinen keiner können
könnte könnten lassen lässt man mehr mein meine meinem meinen meiner mich mir mit mal muss müssen nach nicht nichts nie noch nun nur ob oft ohne sehr
sein seine seinem seinen seiner seit sich sie sind so soll sollen sollte sollten um uns unser unsere unserem unseren über unter vom von vor war waren
warum wann was weil weiter welche welchem welchen welcher welches wenn wer werde werden wird wurde wurden wie wieder wieso weshalb wo woher wohin
worden womit wofür woran worauf wird wir will wollen wohl würde würden zu zum zur zwischen viel viele vielen bitte danke eigentlich denn etwa hier
am eben einfach immer man machen mache macht tun tut habe sei seien ganz gut wen wem wessen mag möchte möchten
"""
COMMON = """
frage antwort leute mensch menschen jahr tag zeit woche monat haus wohnung arbeit geld kind kinder frau mann stadt land welt leben hand kopf weg ding
sache seite name teil art weise problem beispiel ende anfang grund fall ort wort bild buch auto computer handy telefon internet wasser essen trinken
schule arzt firma kunde preis kosten kostet nummer datum datei ordner programm passwort benutzer finden suchen sagen sehen wissen kennen kommen nehmen
geben bekommen brauchen benutzen nutzen verwenden ändern erstellen öffnen schließen kaufen verkaufen bezahlen anmelden abmelden lernen lesen schreiben
neu alt groß klein gut schlecht lang kurz schnell langsam heute morgen gestern richtig falsch wichtig möglich einfach schwer beste besten besser
"""
WEAK = """
beste besten bester bestes gut gute guten besser einfach schnell richtig wichtig möglich möglichkeit möglichkeiten weg wege art weise methode grund
gründe tipp tipps idee ideen leute mensch menschen jemand bedeutet bedeutung heißt erklären erkläre sagen wissen finden machen gemacht eigentlich
genau ungefähr etwa überhaupt unterschied frage antwort brauche braucht brauchen benötigt bekommen bekommt gibt gehen geht funktioniert aktuell gerade
"""
NEGATORS = "nicht nichts kein keine keinen keinem keiner keines nie niemals niemand ohne weder nirgends kaum nimmer keinesfalls keinerlei"
SOFT_NEGATORS = "vermeiden verhindern aufhören verbieten verweigern ablehnen ausschließen stoppen unterlassen"
AGAINST = "bekämpfen loswerden behandeln heilen entfernen löschen reduzieren abgewöhnen beenden überwinden sperren abstellen schützen stornieren"
NEGATION_IDIOMS = ("oder nicht", "nicht nur", "nicht wahr", "ich weiß nicht", "ich verstehe nicht")
CONTRACTIONS = {"geht's": "geht es", "gibt's": "gibt es", "gehts": "geht es", "gibts": "gibt es", "hab": "habe", "nen": "einen", "ne": "eine", "n": "ein"}
IRREGULAR = """
männer=mann frauen=frau kinder=kind häuser=haus bücher=buch bäume=baum väter=vater mütter=mutter städte=stadt länder=land ärzte=arzt
wörter=wort autos=auto computers=computer kostet=kosten öffnet=öffnen öffne=öffnen schließt=schließen schließe=schließen läuft=laufen lief=laufen
ging=gehen gegangen=gehen kam=kommen gekommen=kommen nahm=nehmen genommen=nehmen nimmt=nehmen gab=geben gegeben=geben fand=finden gefunden=finden
schrieb=schreiben geschrieben=schreiben las=lesen gelesen=lesen liest=lesen isst=essen gegessen=essen fährt=fahren gefahren=fahren starb=sterben
gestorben=sterben stirbt=sterben gewann=gewinnen gewonnen=gewinnen verlor=verlieren verloren=verlieren
"""
ANTONYMS = """
erhöhen/senken erhöhen/verringern erhöhen/reduzieren steigern/senken steigern/reduzieren steigen/sinken steigen/fallen vergrößern/verkleinern
verlängern/verkürzen zunehmen/abnehmen zunahme/abnahme anstieg/rückgang maximum/minimum maximal/minimal maximale/minimale höchste/niedrigste
höchster/niedrigster hoch/niedrig hoch/tief höher/niedriger oben/unten obere/untere aufwärts/abwärts rauf/runter hinauf/hinunter öffnen/schließen
auf/zu aufmachen/zumachen offen/geschlossen aufsperren/zusperren entsperren/sperren starten/stoppen starten/beenden anfangen/aufhören beginnen/enden
beginnen/beenden beginn/ende anfang/ende erste/letzte ersten/letzten erster/letzter früh/spät früher/später frühestens/spätestens vor/nach vorher/nachher
vorherige/nächste vorige/nächste vergangenheit/zukunft alt/neu alte/neue alt/jung ältere/jüngere ältester/jüngster importieren/exportieren import/export
eingabe/ausgabe eingang/ausgang einfahrt/ausfahrt eingehend/ausgehend ankunft/abfahrt ankunft/abflug ankommen/abfahren kommen/gehen innen/außen
drinnen/draußen innerhalb/außerhalb intern/extern kaufen/verkaufen kauf/verkauf käufer/verkäufer leihen/verleihen ausleihen/zurückgeben mieten/vermieten
mieter/vermieter mieten/kaufen einzahlen/abheben einzahlung/auszahlung einnahmen/ausgaben gewinn/verlust gewinnen/verlieren soll/haben guthaben/schulden
angebot/nachfrage links/rechts linke/rechte linken/rechten osten/westen norden/süden nord/süd ost/west nördlich/südlich östlich/westlich
waagerecht/senkrecht horizontal/vertikal zeile/spalte breite/höhe länge/breite vorne/hinten vordere/hintere vorwärts/rückwärts drücken/ziehen
schieben/ziehen hochladen/herunterladen hochladen/runterladen senden/empfangen sender/empfänger absender/empfänger geben/nehmen annehmen/ablehnen
akzeptieren/ablehnen genehmigen/ablehnen zustimmen/ablehnen zusagen/absagen erlauben/verbieten erlaubt/verboten legal/illegal aktivieren/deaktivieren
einschalten/ausschalten anschalten/abschalten anschalten/ausschalten anmachen/ausmachen an/aus ein/aus anschließen/trennen verbinden/trennen
einstecken/ausstecken installieren/deinstallieren abonnieren/abbestellen abonnieren/kündigen anmelden/abmelden einloggen/ausloggen anzeigen/ausblenden
einblenden/ausblenden zeigen/verbergen verstecken/zeigen sichtbar/unsichtbar verschlüsseln/entschlüsseln komprimieren/entpacken packen/entpacken
speichern/löschen erstellen/löschen anlegen/löschen hinzufügen/entfernen hinzufügen/löschen einfügen/entfernen addieren/subtrahieren
multiplizieren/dividieren plus/minus aufbauen/abbauen bauen/abreißen montieren/demontieren zusammen/getrennt teilen/verbinden füllen/leeren voll/leer
laden/entladen beladen/entladen aufladen/entladen heizen/kühlen erwärmen/abkühlen heiß/kalt warm/kalt wärmer/kälter nass/trocken feucht/trocken hart/weich
schwer/leicht schwierig/einfach schwer/einfach stark/schwach stärker/schwächer fest/locker dick/dünn dicker/dünner breit/schmal weit/eng tief/flach
groß/klein größer/kleiner größte/kleinste größten/kleinsten lang/kurz länger/kürzer längste/kürzeste hell/dunkel tag/nacht morgens/abends
sommer/winter frühling/herbst schnell/langsam schneller/langsamer schnellste/langsamste nah/fern nah/weit nächste/weiteste gut/schlecht gut/böse
besser/schlechter beste/schlechteste besten/schlechtesten positiv/negativ vorteil/nachteil vorteile/nachteile nutzen/risiko lieben/hassen freund/feind
glücklich/unglücklich fröhlich/traurig lachen/weinen reich/arm teuer/billig teuer/günstig kostenlos/kostenpflichtig wahr/falsch richtig/falsch
gültig/ungültig echt/gefälscht wahrheit/lüge erfolg/misserfolg sieg/niederlage bestehen/durchfallen leben/tod lebendig/tot geburt/tod geboren/gestorben
gesund/krank akut/chronisch gutartig/bösartig männlich/weiblich mann/frau männer/frauen junge/mädchen vater/mutter sohn/tochter bruder/schwester
onkel/tante könig/königin eltern/kinder vorgänger/nachfolger lehrer/schüler arzt/patient chef/mitarbeiter arbeitgeber/arbeitnehmer einstellen/entlassen
angriff/verteidigung täter/opfer schuldig/unschuldig lesen/schreiben sprechen/hören fragen/antworten frage/antwort ursache/wirkung ursache/folge
ursachen/symptome ursachen/folgen symptom/ursache symptome/behandlung absolut/relativ aktiv/passiv aktiv/inaktiv sauer/basisch automatisch/manuell
verfügbar/ausverkauft pflicht/freiwillig verpflichtend/freiwillig konstant/variabel gefährlich/sicher sicher/unsicher direkt/indirekt inland/ausland
ledig/verheiratet heiraten/scheiden online/offline brutto/netto ordentlich/außerordentlich privat/öffentlich privat/geschäftlich dauerhaft/vorübergehend
unbefristet/befristet mehr/weniger meiste/wenigste viel/wenig viele/wenige mit/ohne über/unter für/gegen gleich/verschieden gerade/ungerade
sauber/schmutzig frisch/verdorben roh/gekocht süß/sauer laut/leise müde/wach schlafen/wachen einatmen/ausatmen hinlegen/aufstehen stationär/ambulant
ja/nein immer/nie manchmal/immer bestellen/stornieren buchen/stornieren reservieren/stornieren bestätigen/stornieren verlängern/kündigen
schwanger/unfruchtbar überdosierung/unterdosierung überfunktion/unterfunktion übergewicht/untergewicht hypertonie/hypotonie bluthochdruck/niedrigdruck
vegetarisch/fleischhaltig hauptschalter/nebenschalter hinfahrt/rückfahrt hinflug/rückflug hin/zurück tür/fenster
"""
CONTRADICTORY = "sicher/unsicher sicher/gefährlich wahr/falsch richtig/falsch erlaubt/verboten legal/illegal gesund/krank möglich/unmöglich gültig/ungültig tot/lebendig"
SYNONYMS = """
auto=wagen=pkw=fahrzeug arzt=doktor handy=smartphone=telefon=mobiltelefon rechner=computer=pc bildschirm=monitor=display passwort=kennwort
kosten=preis=kostet ändern=wechseln=verändern=anpassen zurücksetzen=reset=ändern löschen=entfernen kaufen=erwerben=bestellen schnell=rasch wohnung=apartment
haus=gebäude geld=kohle arbeit=job=beruf=stelle firma=unternehmen=betrieb kunde=klient fehler=problem=störung beginnen=anfangen=starten enden=aufhören
urlaub=ferien krankheit=erkrankung medikament=medizin=arznei=arzneimittel tablette=pille kind=kinder lehrer=lehrkraft schüler=schülerin essen=nahrung
drucken=ausdrucken foto=bild email=mail=emails datei=dokument ordner=verzeichnis einrichten=konfigurieren=installieren anmelden=einloggen abmelden=ausloggen
benutzen=nutzen=verwenden=gebrauchen herstellen=machen=erstellen=produzieren zubereiten=kochen=machen reparieren=beheben=lösen=fixen erhöhen=steigern
verringern=senken=reduzieren wichtig=bedeutend grund=ursache weg=methode=möglichkeit=art=weise unterschied=differenz beispiel=beispiele größte=größter
funktioniert=geht=läuft funktionieren=gehen=laufen bekommen=erhalten=kriegen fahren=reisen wohnen=leben dauer=dauert=lange öffnungszeiten=geöffnet
"""
QUESTION = (
    (r"wie lange?|wie viel zeit|wie viele (?:tage|wochen|monate|jahre|stunden|minuten)|wieviel zeit|wieviele (?:tage|wochen|monate|jahre|stunden|minuten)", "how long"),
    (r"wie viele|wieviele|welche anzahl|wie hoch ist die (?:zahl|anzahl)", "how many"),
    (r"wie alt|welches alter", "how old"),
    (r"wie oft|wie häufig", "how often"),
    (r"wie weit", "how far"),
    (r"wie viel|wieviel|wie teuer|was kostet|was kosten|wie hoch (?:ist der preis|sind die kosten)|welcher preis", "how much"),
    (r"wie (?:groß|hoch|tief|breit|schwer|schnell|heiß|kalt|stark|lang|warm)\b", "how big"),
    (r"warum|wieso|weshalb|weswegen|aus welchem grund|was ist der grund|wie kommt es", "why"),
    (r"wann|um wie ?viel uhr|zu welcher (?:zeit|uhrzeit)|in welchem (?:jahr|monat)|an welchem tag|um welche uhrzeit|seit wann|ab wann", "when"),
    (r"wohin", "where to"),
    (r"woher|von wo", "where from"),
    (r"wo|an welchem ort|in welcher stadt|in welchem land", "where"),
    (r"wer|wen|wem|wessen|welche person", "who"),
    (r"wie|auf welche (?:art|weise)|was (?:muss|kann|soll|sollte) ich tun|welche möglichkeiten|gibt es (?:eine|einen) (?:möglichkeit|weg)", "how"),
    (r"was|welche|welcher|welches|welchen|welchem", "what"),
)
PADDING_BEFORE = (
    r"(?:hallo|hi|hey|servus|moin|guten (?:morgen|tag|abend)|grüß gott|sehr geehrte damen und herren|liebes team)(?: (?:zusammen|alle|leute|team|ihr))?"
    r"(?= *[,.!:;\n-]| (?:ich|wie|was|wann|wo|wer|warum|können|könnten|kannst|kann|bitte)\b|$)",
    r"(?:nur )?(?:kurze|eine kurze|eine|ich habe eine|ich hab eine|ich hätte eine|ich habe mal eine)(?: \w+)? frage(?= *[,.!:;\n-])",
    r"(?:können|könnten|kannst|könntest|würden|würdest) (?:sie|du|ihr)(?: mir| uns)?(?: bitte| vielleicht| mal)*(?: mir| uns)? (?:sagen|erklären|erläutern|mitteilen|verraten|helfen)"
    r"(?: bitte)?(?= *,)(?:,? ob)?",
    r"(?:ich (?:wollte|würde gerne|würde gern|möchte|will)(?: gerne| gern| mal)?(?: wissen| fragen))(?= *,)(?:,? ob)?",
    r"(?:ich (?:frage mich|habe mich gefragt|weiß nicht))(?= *,)(?:,? ob)?",
    r"(?:weißt du|wissen sie|weiß jemand|weiß hier jemand)(?: vielleicht| zufällig)?(?= *,)(?:,? ob)?",
    r"(?:bitte|entschuldigung|verzeihung|entschuldigen sie|also|sagen sie mir(?: bitte)?|sag mir(?: bitte)?|sag mal|erkläre? mir(?: bitte)?)(?= *,| (?:wie|was|wann|wo|wer|warum|ich|kann)\b)",
)
PADDING_AFTER = (
    r"(?:vielen dank|besten dank|herzlichen dank|danke|danke schön|dankeschön|merci)(?: (?:im voraus|sehr|schon mal|euch|ihnen|dir|für die hilfe|für ihre hilfe))*",
    r"(?:bitte|mit freundlichen grüßen|viele grüße|liebe grüße|lg|mfg|weißt du das|wissen sie das|kann mir jemand helfen|oder|gell|nicht wahr)",
)
